package mcp.authz

import data.mcp.facts

default decision := false

decision if {
	some name, fact in facts.known
	fact.owner == "crm"
	name == input.mcp.name
}

decision if facts[input.mcp.arguments.region]
