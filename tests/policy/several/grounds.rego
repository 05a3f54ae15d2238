package mcp.authz

import data.lib.words
import rego.v1

grounds contains "region" if words.same(input.mcp.arguments.region, input.principal.claims.region)

grounds contains "all items" if {
	count(input.mcp.arguments.items) > 0
	every item in input.mcp.arguments.items {
		item.qty < limits[grade]
	}
}

objections contains name if {
	some name, about in found
	about.bad
	not about.forgiven
}

found[name] := {"bad": bad, "forgiven": forgiven} if {
	some name in ["night", "abroad"]
	bad := name in conditions
	forgiven := "admin" in input.principal.roles
}

conditions contains "night" if input.time.hour < 6

conditions contains "abroad" if not net.cidr_contains("10.0.0.0/8", input.context.source_ip)
