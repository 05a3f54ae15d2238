package mcp.authz

default decision := false

total := sum([cost |
	some item in input.mcp.arguments.items
	cost := item.qty * object.get(item, "price", 1)
])

decision if {
	total + input.mcp.arguments.n - 3 < data.limits.amount
	remainder := (total * 2) % 3
	remainder != 1
}

decision if input.mcp.arguments.amount / 2 == 5
