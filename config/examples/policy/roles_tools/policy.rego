# Roles and the tools that they may use, as `data.roles` lists them.
package mcp.authz

import rego.v1

default decision := {"allow": false, "reason": "no role of the caller has this tool"}

decision := {"allow": true} if general

decision := {"allow": true} if listed

# What is about no tool, prompt or resource: greetings, lists, streams.
general if input.mcp.kind in {"server", "stream"}

listed if {
	input.mcp.kind == "tool"
	some role in input.principal.roles
	some tool in data.roles[role].tools
	tool == sprintf("%s.%s", [input.mcp.upstream, input.tool.original])
}

# A role for a whole upstream: its tools, prompts and resources.
listed if {
	some role in input.principal.roles
	input.mcp.upstream in data.roles[role].upstreams
}
