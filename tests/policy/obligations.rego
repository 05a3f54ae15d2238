package mcp.authz

default decision := {"allow": false, "reason": "default"}

decision := {"allow": true, "reason": "ok", "obligations": duties} if input.tool.risk != "critical"

duties := object.union_n([redaction, injection, step])

redaction := {"redact": ["salary", "/content/*/iban"]} if "reader" in input.principal.roles

redaction := {} if not "reader" in input.principal.roles

injection := {"inject": {"region": input.principal.claims.region}} if input.principal.claims.region

injection := {} if not input.principal.claims.region

default step := {}

step := {"step_up": true, "cost": 0.25, "max_result_bytes": 1000} if {
	input.tool.risk == "high"
	not input.principal.mfa
}
