package mcp.authz_test

import data.mcp.authz
import rego.v1

call(principal, arguments) := {
	"principal": principal,
	"mcp": {"kind": "tool", "method": "tools/call", "name": "report", "arguments": arguments},
	"tool": {"labels": ["regional"]},
}

eu := {"roles": [], "claims": {"region": "eu"}}

nowhere := {"roles": [], "claims": {}}

everywhere := {"roles": ["global"], "claims": {"region": "eu"}}

test_the_own_region if authz.decision.allow with input as call(eu, {"region": "eu"})

test_another_region if not authz.decision.allow with input as call(eu, {"region": "us"})

test_no_region if not authz.decision.allow with input as call(eu, {})

test_a_region_in_another_form if not authz.decision.allow with input as call(eu, {"region": ["eu"]})

test_a_caller_of_no_region if {
	not authz.decision.allow with input as call(nowhere, {"region": "eu"})
	not authz.visible with input as call(nowhere, {})
}

test_a_caller_for_all_regions if {
	authz.decision.allow with input as call(everywhere, {"region": "us"})
	authz.decision.allow with input as call(everywhere, {"region": "eu"})
	not authz.decision.allow with input as call(everywhere, {"region": "moon"})
	authz.visible with input as call(everywhere, {})
}

test_other_tools_have_no_region if {
	other := object.union(call(nowhere, {}), {"tool": {"labels": []}})
	authz.decision.allow with input as other
	authz.visible with input as other
}
