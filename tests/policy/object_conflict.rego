package mcp.authz

default decision := false

decision if count(owners) > 0

owners[tool] := role if {
	some role in input.principal.roles
	some grant in data.grants[role]
	tool := trim_suffix(grant.tool, "*")
}
