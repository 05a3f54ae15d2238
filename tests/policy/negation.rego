package mcp.authz

default decision := false

decision if {
	not input.principal.claims.suspended
	not blocked
	count(input.principal.roles) > 0
}

blocked if input.mcp.arguments.amount > data.limits.amount

blocked if {
	some item in input.mcp.arguments.items
	item.qty + 1 > 10
}

blocked if input.mcp.arguments.n == 7
