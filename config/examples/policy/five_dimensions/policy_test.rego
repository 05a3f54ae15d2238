package mcp.authz_test

import data.mcp.authz
import rego.v1

transfer := {
	"principal": {"roles": ["treasurer"], "claims": {"grade": "junior"}},
	"mcp": {
		"kind": "tool",
		"method": "tools/call",
		"name": "transfer",
		"arguments": {"amount": 900},
	},
	"tool": {"risk": "critical"},
	"context": {"zone": "office", "justification": "invoice 4711 of acme"},
	"time": {"weekday": "Tuesday", "hour": 9},
}

with_change(change) := object.union(transfer, change)

test_everything_fits if {
	authz.decision.allow with input as transfer
	authz.decision.obligations.audit == "strict" with input as transfer
}

test_who if {
	not authz.decision.allow with input as with_change({"principal": {"roles": ["member"]}})
	not authz.visible with input as with_change({"principal": {"roles": ["member"]}})
}

test_what if {
	not authz.decision.allow with input as with_change({"mcp": {"arguments": {"amount": 1001}}})
	senior := {"principal": {"claims": {"grade": "senior"}}, "mcp": {"arguments": {"amount": 1001}}}
	authz.decision.allow with input as with_change(senior)
	not authz.decision.allow with input as json.remove(transfer, ["mcp/arguments/amount"])
}

test_what_is_no_amount if {
	every amount in [null, false, "1", [1], 0, -900] {
		not authz.decision.allow with input as with_change({"mcp": {"arguments": {"amount": amount}}})
	}
}

test_where if {
	not authz.decision.allow with input as with_change({"context": {"zone": "vpn"}})
	not authz.decision.allow with input as json.remove(transfer, ["context/zone"])
}

test_when if {
	not authz.decision.allow with input as with_change({"time": {"hour": 18}})
	not authz.decision.allow with input as with_change({"time": {"weekday": "Sunday"}})
}

test_why if {
	not authz.decision.allow with input as with_change({"context": {"justification": "because"}})
	not authz.decision.allow with input as json.remove(transfer, ["context/justification"])
	reason := authz.decision.reason with input as json.remove(transfer, ["context/justification"])
	contains(reason, "say why")
}

test_members_use_the_rest if {
	low := {"tool": {"risk": "low"}, "principal": {"roles": ["member"]}}
	authz.decision.allow with input as with_change(low)
	not authz.decision.allow with input as with_change({"tool": {"risk": "low"}})
	not authz.visible with input as with_change({"tool": {"risk": "low"}})
}

test_everyone_may_list if authz.decision.allow with input as {
	"principal": {"roles": []},
	"mcp": {"kind": "server", "method": "tools/list"},
}
