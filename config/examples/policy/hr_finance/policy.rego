# HR and finance do not see each other's tools, and nobody is both.
package mcp.authz

import rego.v1

default decision := {"allow": false, "reason": "this belongs to another department"}

decision := {"allow": true} if general

decision := {"allow": true} if common

decision := {"allow": true, "obligations": {"redact": data.departments[department].redact}} if {
	own
	not in_two
}

decision := {"allow": false, "reason": "the caller belongs to two departments that are kept apart"} if {
	department
	in_two
}

general if input.mcp.kind in {"server", "stream"}

# Upstreams that belong to no department are everyone's.
common if {
	not general
	not department
}

department := name if {
	not general
	some name, about in data.departments
	input.mcp.upstream in about.upstreams
}

own if data.departments[department].group in input.principal.groups

in_two if {
	groups := {about.group | some about in data.departments}
	count(groups & {group | some group in input.principal.groups}) > 1
}
