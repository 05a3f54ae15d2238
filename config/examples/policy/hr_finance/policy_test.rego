package mcp.authz_test

import data.mcp.authz
import rego.v1

call(groups, upstream) := {
	"principal": {"groups": groups},
	"mcp": {"kind": "tool", "method": "tools/call", "upstream": upstream, "name": "find"},
	"tool": {"original": "find"},
}

test_each_has_its_own if {
	authz.decision.allow with input as call(["hr"], "people")
	authz.decision.allow with input as call(["finance"], "ledger")
}

test_neither_has_the_other_s if {
	not authz.decision.allow with input as call(["hr"], "ledger")
	not authz.decision.allow with input as call(["finance"], "people")
	not authz.decision.allow with input as call([], "people")
}

test_nobody_is_both if {
	not authz.decision.allow with input as call(["finance", "hr"], "people")
	reason := authz.decision.reason with input as call(["finance", "hr"], "people")
	contains(reason, "two departments")
}

test_what_is_nobody_s_is_everyone_s if {
	authz.decision.allow with input as call([], "wiki")
	authz.decision.allow with input as call(["finance", "hr"], "wiki")
}

test_results_are_redacted if {
	redact := authz.decision.obligations.redact with input as call(["hr"], "people")
	redact == ["/structuredContent/national_id"]
}

test_everyone_may_list if authz.decision.allow with input as {
	"principal": {"groups": []},
	"mcp": {"kind": "server", "method": "tools/list"},
}
