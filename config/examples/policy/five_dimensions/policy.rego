# Who, what, where, when and why: all five of them in one policy.
#
# Treasurers transfer money, up to their limit, from the office, in business hours, and say why.
# Everything else that is not critical is open to members.
package mcp.authz

import rego.v1

decision := {"allow": count(missing) == 0, "reason": reason, "obligations": obligations}

default reason := ""

# The first thing that is missing.
reason := sort(missing)[0][1]

default obligations := {}

obligations := {"audit": "strict", "alert": true} if critical

critical if input.tool.risk == "critical"

# Who.
missing contains [1, "the caller has no role for this"] if {
	needs_member
	not "member" in input.principal.roles
}

missing contains [1, "only treasurers use critical tools"] if {
	critical
	not "treasurer" in input.principal.roles
}

# What: the tool, and the amount that it is told.
missing contains [2, "the amount is above the caller's limit"] if {
	critical
	not within_limit
}

# Where.
missing contains [3, "critical tools are used from the office"] if {
	critical
	not input.context.zone == "office"
}

# When.
missing contains [4, "critical tools are used Monday to Friday, 8 to 18"] if {
	critical
	not business_hours
}

# Why.
missing contains [5, "say why, in `_meta`"] if {
	critical
	not justified
}

needs_member if {
	input.mcp.kind in {"tool", "prompt", "resource", "template"}
	not critical
}

# Null and false come before all numbers, and an amount below zero takes what it should give.
within_limit if {
	amount := input.mcp.arguments.amount
	is_number(amount)
	amount > 0
	amount <= data.limits[input.principal.claims.grade]
}

business_hours if {
	not input.time.weekday in {"Saturday", "Sunday"}
	input.time.hour >= 8
	input.time.hour < 18
}

justified if count(trim_space(input.context.justification)) >= 10

# Shown is what the caller's role is good for at some place and time.
default visible := true

visible := false if {
	needs_member
	not "member" in input.principal.roles
}

visible := false if {
	critical
	not "treasurer" in input.principal.roles
}
