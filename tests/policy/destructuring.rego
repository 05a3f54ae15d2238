package mcp.authz

default decision := false

decision if {
	[first, second] := input.principal.roles
	first != second
	{"qty": qty, "price": price} := input.mcp.arguments.items[_]
	qty < price
}

decision if {
	[_, {"qty": q}] = input.mcp.arguments.items
	q == 3
}
