package mcp.authz

import data.lib.roles
import rego.v1

grade := "high" if {
	input.principal.mfa
	highest > 2
} else := "middle" if {
	highest == 2
} else := "low"

highest := max([roles.known[role].level | some role in input.principal.roles])

limits := {name: limit |
	some name, factor in {"low": 1, "middle": 2, "high": 3}
	limit := factor * 2
}
