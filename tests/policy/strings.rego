package mcp.authz

default decision := false

decision if {
	startswith(input.mcp.name, "sea")
	lower(input.mcp.arguments.region) == "eu"
	regex.match(`^[a-z]+$`, input.principal.subject)
}

decision if {
	parts := split(input.principal.subject, ".")
	parts[count(parts) - 1] == "bot"
	contains(input.mcp.arguments.text, "ok")
}

decision if substring(input.mcp.arguments.text, 0, 2) == upper("ok")

decision if indexof(input.mcp.arguments.text, "zz") >= 1
