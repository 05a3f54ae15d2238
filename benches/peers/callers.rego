# What envoy.yaml asks with `full`: the method, the tool, and the role of the caller.
package mcp.authz

import rego.v1

default decision := false

# Greetings, lists and streams.
decision if input.mcp.kind in {"server", "stream"}

decision if {
	input.mcp.method == "tools/call"
	input.mcp.name == "echo"
	"caller" in input.principal.roles
}
