package mcp.authz

default decision := false

wanted contains scope if some scope in input.tool.scopes

wanted contains "base"

wanted contains concat(":", ["risk", input.tool.risk])

held := {scope | some scope in input.principal.scopes} | {"base", "risk:low"}

missing := wanted - held

decision if count(missing) == 0

decision if {
	count(missing & {"risk:medium"}) == 1
	input.principal.mfa
}
