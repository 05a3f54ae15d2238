package mcp.authz

default decision := {"allow": false}

levels := {role: data.roles[role].level | some role in input.principal.roles}

top := max([level | some level in levels])

named := {grant.tool | some role in input.principal.roles; some grant in data.grants[role]}

decision := {"allow": true, "reason": sprintf("level %d of %v", [top, count(named)])} if {
	top >= 2
	input.mcp.name != "drop"
}
