// Reads messages as servers written in Go do, one a line, into structs by `encoding/json`, and says what
// stands at each place. What does not fit the structs is an answer of null: such a server refuses it.
package main

import (
	"bufio"
	"encoding/json"
	"os"
)

type message struct {
	Method any `json:"method"`
	Params struct {
		Name any `json:"name"`
		URI  any `json:"uri"`
		Ref  struct {
			Type any `json:"type"`
			Name any `json:"name"`
			URI  any `json:"uri"`
		} `json:"ref"`
		Arguments struct {
			Amount  any `json:"amount"`
			Account struct {
				ID any `json:"id"`
			} `json:"account"`
			Filter struct {
				Min any `json:"min"`
				Max any `json:"max"`
			} `json:"filter"`
			Region any `json:"region"`
		} `json:"arguments"`
		InputResponses map[string]struct {
			Action any `json:"action"`
		} `json:"inputResponses"`
	} `json:"params"`
}

func main() {
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(make([]byte, 1<<20), 1<<20)
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	for number := 1; lines.Scan(); number++ {
		out.Write(append(answer(lines.Bytes()), '\n'))
		// Who asks waits for the answers to as many.
		if number%1000 == 0 {
			out.Flush()
		}
	}
}

func answer(line []byte) []byte {
	var read message
	if json.Unmarshal(line, &read) != nil {
		return []byte("null")
	}
	params := read.Params
	arguments := params.Arguments
	said, err := json.Marshal([]any{
		read.Method, params.Name, params.URI, params.Ref.Type, params.Ref.Name, params.Ref.URI,
		arguments.Amount, arguments.Account.ID, arguments.Filter.Min, arguments.Filter.Max,
		arguments.Region, params.InputResponses["q"].Action,
	})
	if err != nil {
		return []byte("null")
	}
	return said
}
