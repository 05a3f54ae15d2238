package mcp.authz

default limit := 10

limit := 20 if "writer" in input.principal.roles

limit := 30 if "admin" in input.principal.roles

default decision := false

decision if input.mcp.arguments.amount <= limit
