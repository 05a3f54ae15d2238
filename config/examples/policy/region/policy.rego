# A tool that takes a region is called for the caller's own.
package mcp.authz

import rego.v1

default decision := {"allow": false, "reason": "the region is not the caller's"}

decision := {"allow": true} if not regional

decision := {"allow": true} if {
	regional
	input.mcp.arguments.region == input.principal.claims.region
}

# Someone who looks after all regions names the one.
decision := {"allow": true} if {
	regional
	"global" in input.principal.roles
	input.mcp.arguments.region in data.regions
	not own_region
}

own_region if input.mcp.arguments.region == input.principal.claims.region

regional if {
	input.mcp.kind == "tool"
	"regional" in input.tool.labels
}

default visible := true

# Whoever has no region can call none of these tools.
visible := false if {
	regional
	not input.principal.claims.region
	not "global" in input.principal.roles
}
