package mcp.facts

known[tool.name] := tool if some tool in data.tools

eu if input.mcp.arguments.n > 3

us := false
