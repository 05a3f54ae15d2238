package mcp.authz

decision := {"allow": true, "reasons": []} if input.mcp.arguments.n > 5

decision := "yes" if input.mcp.arguments.n == 5

decision := {"allow": "true"} if input.mcp.arguments.n == 4

decision := true if input.mcp.arguments.n < 4
