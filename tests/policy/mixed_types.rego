package mcp.authz

default decision := false

decision if {
	some x in data.limits.list
	x + 1 == input.mcp.arguments.n
}

decision if data.limits.weird < input.mcp.arguments.amount

decision if input.mcp.arguments.region > 5
