package mcp.authz

default decision := false

pairs contains [role, grant.tool] if {
	some role in input.principal.roles
	some grant in data.grants[role]
}

decision if ["reader", "list"] in pairs

decision if {
	some [role, "*"] in pairs
	role == "admin"
	input.mcp.arguments.n in [1, 3, 5]
}
