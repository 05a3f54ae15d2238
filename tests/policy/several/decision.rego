package mcp.authz

import data.lib.roles
import data.lib.words
import rego.v1

default decision := {"allow": false, "reason": "nothing allows this"}

decision := {"allow": true, "reason": words.joined(grounds)} if {
	count(grounds) > 0
	count(objections) == 0
}

decision := {"allow": false, "reason": words.joined(objections)} if count(objections) > 0

grounds contains "role" if {
	some role in input.principal.roles
	roles.known[role].level >= 2
}

objections contains "suspended" if input.principal.claims.suspended == true

objections contains sprintf("more than %d", [limits[grade]]) if input.mcp.arguments.n > limits[grade]
