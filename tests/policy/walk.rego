package mcp.authz

default decision := false

decision if not secret

secret if {
	walk(input.mcp.arguments, [path, value])
	is_string(value)
	startswith(value, "sk-")
	count(path) > 0
}
