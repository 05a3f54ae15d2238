package mcp.authz

default decision := false

weekend if input.time.weekday in {"Saturday", "Sunday"}

decision if {
	not weekend
	not data.holidays[input.time.date]
	input.time.hour >= 9
	input.time.hour < 17
}
