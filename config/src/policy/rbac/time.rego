# Conditions on the time, which is that of the policy's time zone.
package mcp.authz

import rego.v1

in_time(grant) if {
	on_weekday(grant)
	at_hour(grant)
}

on_weekday(grant) if count(grant.weekdays) == 0

on_weekday(grant) if input.time.weekday in grant.weekdays

at_hour(grant) if not grant.hours

at_hour(grant) if {
	input.time.hour >= grant.hours.from
	input.time.hour < grant.hours.to
}
