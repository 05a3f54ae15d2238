package mcp.authz

default decision := false

decision if {
	every role in input.principal.roles {
		data.roles[role].level < 3
	}
	every key, item in input.mcp.arguments.items {
		item.qty <= 5
		key < 3
	}
}
