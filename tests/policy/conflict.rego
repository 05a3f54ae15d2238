package mcp.authz

decision := {"allow": kind == "a"}

kind := "a" if input.mcp.arguments.n > 1

kind := "b" if input.mcp.arguments.n > 4

kind := "a" if input.mcp.name == "list"
