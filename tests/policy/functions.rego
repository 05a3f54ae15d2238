package mcp.authz

default decision := false

score("low", _) := 1

score("medium", n) := n

score("high", n) := n * 2 if n > 0

score(risk, n) := n * 3 if {
	risk == "critical"
	n >= 0
}

decision if score(input.tool.risk, input.mcp.arguments.n) < 8
