# How much risk a role carries, and what a risk asks for on top.
package mcp.authz

import rego.v1

default decision := {"allow": false, "reason": "the tool is riskier than the caller's roles allow"}

decision := {"allow": true} if general

decision := {"allow": true} if {
	within_tier
	rank < 3
}

# Someone who is about to do harm shows a second factor first.
decision := {"allow": true, "obligations": {"step_up": not_stepped_up, "audit": "strict"}} if {
	within_tier
	rank == 3
}

decision := {
	"allow": true,
	"obligations": {
		"step_up": not_stepped_up,
		"approve": {"count": 2, "within": "1h"},
		"audit": "strict",
		"alert": true,
	},
} if {
	within_tier
	rank == 4
}

default visible := false

visible if general

visible if within_tier

general if input.mcp.kind in {"server", "stream"}

# Prompts and resources have no risk of their own: they count as medium.
within_tier if {
	not general
	some role in input.principal.roles
	rank <= ranks[data.tiers[role]]
}

default rank := 2

rank := ranks[input.tool.risk]

# A tool that nobody rated is as risky as a high one.
ranks := {"low": 1, "medium": 2, "high": 3, "unrated": 3, "critical": 4}

default not_stepped_up := true

not_stepped_up := false if input.principal.mfa
