# What roles may do, as `data.rbac` has it: role, tool, server and condition.
#
# A role that a caller holds allows by its `allow` grants and refuses by its `deny` grants, and a
# refusal counts more. Of what is about no tool, prompt or resource, the methods in
# `data.rbac.general` are open to everyone who holds a role, and others to the roles that name them.
package mcp.authz

import rego.v1

default decision := {"allow": false, "reason": "no role of the caller allows this"}

decision := {"allow": true} if {
	allowed
	not refused
}

decision := {"allow": false, "reason": "a role of the caller refuses this"} if refused

decision := {"allow": true} if general

default visible := false

# A tool is shown to whoever could call it at some time, with some arguments.
visible if {
	some name in held
	some grant in data.rbac.roles[name].allow
	matches(grant)
	suits(grant)
	not hidden
}

visible if general

# A refusal without conditions hides.
hidden if {
	some name in held
	some grant in data.rbac.roles[name].deny
	matches(grant)
	not grant.conditional
}

allowed if {
	some name in held
	some grant in data.rbac.roles[name].allow
	matches(grant)
	suits(grant)
	in_time(grant)
	justified(grant)
	arguments_fit(grant)
}

refused if {
	some name in held
	some grant in data.rbac.roles[name].deny
	matches(grant)
	suits(grant)
	in_time(grant)
	justified(grant)
	arguments_fit(grant)
}

# What is about no tool, prompt or resource.
general if {
	input.mcp.kind in {"server", "stream"}
	input.mcp.method in data.rbac.general[input.mcp.direction]
	count(held) > 0
}

general if {
	input.mcp.kind in {"server", "other"}
	some name in held
	input.mcp.method in data.rbac.roles[name].methods
}

# The roles of `data.rbac` that the caller holds.
held contains name if {
	some name, role in data.rbac.roles
	some mark in role.roles
	mark in input.principal.roles
	of_tenant(role)
}

held contains name if {
	some name, role in data.rbac.roles
	some mark in role.groups
	mark in input.principal.groups
	of_tenant(role)
}

held contains name if {
	some name, role in data.rbac.roles
	input.principal.subject in role.subjects
	of_tenant(role)
}

of_tenant(role) if count(role.tenants) == 0

of_tenant(role) if input.principal.tenant in role.tenants

# What the message is about, by the name that its upstream gives it: a new name changes no right.
target := input.mcp.name if input.mcp.kind in {"tool", "prompt"}

target := input.mcp.uri if input.mcp.kind in {"resource", "template"}

matches(grant) if {
	some pattern in grant[input.mcp.kind]
	fits(pattern.upstream, input.mcp.upstream)
	fits(pattern.name, target)
	on_server(grant)
}

on_server(grant) if count(grant.servers) == 0

on_server(grant) if input.mcp.server in grant.servers

fits(pattern, name) if pattern.exact == name

fits(pattern, name) if {
	startswith(name, pattern.prefix)
	endswith(name, pattern.suffix)
	count(name) >= pattern.least
}

fits(pattern, name) if regex.match(pattern.regex, name)

# The conditions that concern neither time nor arguments.
suits(grant) if {
	of_zone(grant)
	of_class(grant)
	within_risk(grant)
	with_second_factor(grant)
}

of_zone(grant) if count(grant.zones) == 0

of_zone(grant) if input.context.zone in grant.zones

of_class(grant) if count(grant.classes) == 0

of_class(grant) if input.tool["class"] in grant.classes

within_risk(grant) if not grant.max_risk

within_risk(grant) if risks[input.tool.risk] <= risks[grant.max_risk]

# What nobody rated is as risky as what was found to be.
risks := {"low": 1, "medium": 2, "high": 3, "unrated": 3, "critical": 4}

with_second_factor(grant) if not grant.mfa

with_second_factor(_) if input.principal.mfa
