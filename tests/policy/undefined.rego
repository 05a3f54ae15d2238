package mcp.authz

decision if input.mcp.arguments.n > 2
