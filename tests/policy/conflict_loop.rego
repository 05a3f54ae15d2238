package mcp.authz

default decision := false

decision if first

first := role if some role in input.principal.roles
