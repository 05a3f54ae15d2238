package mcp.authz_test

import data.mcp.authz
import rego.v1

call(role, risk, mfa) := {
	"principal": {"roles": [role], "mfa": mfa},
	"mcp": {"kind": "tool", "method": "tools/call", "name": "t"},
	"tool": {"risk": risk},
}

test_a_tier_holds_what_is_below_it if {
	every role, most in {"reader": 1, "member": 2, "operator": 3, "owner": 4} {
		every risk, rank in {"low": 1, "medium": 2, "high": 3, "critical": 4} {
			allowed := authz.decision.allow with input as call(role, risk, true)
			allowed == (rank <= most)
		}
	}
}

test_an_unrated_tool_is_a_risky_one if {
	not authz.decision.allow with input as call("member", "unrated", true)
	authz.decision.allow with input as call("operator", "unrated", true)
}

test_a_second_factor_is_asked_for_once if {
	asked := authz.decision.obligations.step_up with input as call("operator", "high", false)
	asked == true
	shown := authz.decision.obligations.step_up with input as call("operator", "high", true)
	shown == false
}

test_two_others_agree_to_what_is_critical if {
	obligations := authz.decision.obligations with input as call("owner", "critical", true)
	obligations.approve.count == 2
}

test_what_may_not_be_called_is_not_shown if {
	authz.visible with input as call("operator", "high", false)
	not authz.visible with input as call("reader", "high", false)
}

test_a_prompt_counts_as_medium if {
	prompt := {"principal": {"roles": ["reader"]}, "mcp": {"kind": "prompt", "name": "p"}}
	not authz.visible with input as prompt
	authz.visible with input as object.union(prompt, {"principal": {"roles": ["member"]}})
}

test_everyone_may_list if authz.decision.allow with input as {
	"principal": {"roles": []},
	"mcp": {"kind": "server", "method": "tools/list"},
}
