package mcp.authz

default decision := false

decision if {
	text := base64.decode(input.mcp.arguments.token)
	json.unmarshal(text).ok
}

decision if json.is_valid(input.mcp.arguments.text)

decision if to_number(input.mcp.arguments.region) > 1

decision if semver.compare(input.principal.claims.version, "1.2.0") >= 0

decision if units.parse_bytes(input.mcp.arguments.size) > 1000
