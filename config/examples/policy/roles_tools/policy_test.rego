package mcp.authz_test

import data.mcp.authz
import rego.v1

call(roles, tool) := {
	"principal": {"roles": roles},
	"mcp": {"kind": "tool", "method": "tools/call", "upstream": "crm", "name": tool},
	"tool": {"original": tool},
}

test_support_finds_customers if authz.decision.allow with input as call(["support"], "find_customer")

test_support_creates_no_offers if not authz.decision.allow with input as call(["support"], "create_offer")

test_sales_creates_offers if authz.decision.allow with input as call(["sales"], "create_offer")

test_a_stranger_has_no_tool if not authz.decision.allow with input as call([], "find_customer")

test_everyone_may_list if authz.decision.allow with input as {
	"principal": {"roles": []},
	"mcp": {"kind": "server", "method": "tools/list"},
}

test_support_has_all_of_the_wiki if authz.decision.allow with input as {
	"principal": {"roles": ["support"]},
	"mcp": {"kind": "resource", "method": "resources/read", "upstream": "wiki", "uri": "wiki://start"},
}
