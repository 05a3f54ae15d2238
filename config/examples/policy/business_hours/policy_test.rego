package mcp.authz_test

import data.mcp.authz
import rego.v1

at(weekday, hour, date) := {
	"principal": {"roles": []},
	"mcp": {"kind": "tool", "method": "tools/call", "name": "pay"},
	"tool": {"labels": ["payment"]},
	"time": {"weekday": weekday, "hour": hour, "date": date},
}

test_payments_are_made_in_business_hours if {
	authz.decision.allow with input as at("Monday", 8, "2026-11-23")
	authz.decision.allow with input as at("Friday", 17, "2026-11-27")
	not authz.decision.allow with input as at("Monday", 7, "2026-11-23")
	not authz.decision.allow with input as at("Friday", 18, "2026-11-27")
	not authz.decision.allow with input as at("Sunday", 12, "2026-11-22")
	not authz.decision.allow with input as at("Friday", 12, "2026-12-25")
}

test_the_caller_is_told_when if {
	reason := authz.decision.reason with input as at("Sunday", 12, "2026-11-22")
	contains(reason, "Monday to Friday")
}

test_other_tools_know_no_hours if {
	other := object.union(at("Sunday", 3, "2026-11-22"), {"tool": {"labels": []}})
	authz.decision.allow with input as other
}

test_a_tool_is_shown_at_night if authz.visible with input as at("Sunday", 3, "2026-11-22")
