package mcp.authz_test

import data.mcp.authz
import rego.v1

campaign(groups, count) := {
	"principal": {"tenant": "acme", "groups": groups},
	"mcp": {
		"kind": "tool",
		"method": "tools/call",
		"name": "send_campaign",
		"arguments": {"recipients": numbers.range(1, count)},
	},
	"tool": {"original": "send_campaign"},
}

test_a_small_one_goes_out if {
	obligations := authz.decision.obligations with input as campaign(["marketing"], 50)
	not obligations.approve
	obligations.inject.sender == "acme"
}

test_a_large_one_waits if {
	obligations := authz.decision.obligations with input as campaign(["marketing"], 51)
	obligations.approve.count == 1
}

test_a_huge_one_is_refused if {
	not authz.decision.allow with input as campaign(["marketing"], 10001)
}

test_others_send_none_and_see_none if {
	not authz.decision.allow with input as campaign(["sales"], 1)
	not authz.visible with input as campaign(["sales"], 1)
	authz.visible with input as campaign(["marketing"], 1)
}

test_no_recipients_at_all if {
	call := campaign(["marketing"], 1)
	without := json.remove(call, ["mcp/arguments/recipients"])
	not authz.decision.allow with input as without
}

test_other_tools_are_open if {
	other := object.union(campaign(["sales"], 1), {"tool": {"original": "list_campaigns"}})
	authz.decision.allow with input as other
	authz.visible with input as other
}
