package mcp.authz

default decision := false

decision if {
	"reader" in input.principal.roles
	input.mcp.name == "search"
}

decision if "admin" in input.principal.roles
