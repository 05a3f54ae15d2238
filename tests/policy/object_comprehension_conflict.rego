package mcp.authz

default decision := false

by_size := {count(role): role | some role in input.principal.roles}

decision if by_size[6]
