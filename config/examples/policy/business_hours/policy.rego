# Payments are made in business hours, in the time zone of the policy.
package mcp.authz

import rego.v1

default decision := {"allow": false, "reason": "payments are made Monday to Friday, 8 to 18"}

decision := {"allow": true} if not is_payment

decision := {"allow": true} if {
	is_payment
	open
}

is_payment if {
	input.mcp.kind == "tool"
	"payment" in input.tool.labels
}

open if {
	input.time.weekday in data.hours.weekdays
	input.time.hour >= data.hours.from
	input.time.hour < data.hours.to
	not input.time.date in data.hours.holidays
}

# Tools do not come and go with the hour.
default visible := true
