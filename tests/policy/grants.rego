package mcp.authz

import data.grants

default decision := {"allow": false, "reason": "no grant"}

decision := {"allow": true, "reason": "granted"} if {
	some role in input.principal.roles
	some grant in grants[role]
	glob.match(grant.tool, ["."], input.mcp.name)
	fits(grant, input.mcp.arguments)
}

fits(grant, _) if not grant.regions

fits(grant, arguments) if arguments.region in grant.regions
