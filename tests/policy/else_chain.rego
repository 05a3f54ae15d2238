package mcp.authz

decision := {"allow": false, "reason": "critical"} if {
	input.tool.risk == "critical"
} else := {"allow": true, "reason": "admin"} if {
	"admin" in input.principal.roles
} else := {"allow": input.principal.mfa, "reason": "mfa"} if {
	input.tool.risk == "high"
} else := {"allow": true, "reason": "low"}
