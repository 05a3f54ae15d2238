package mcp.authz

default decision := {"allow": false, "reason": "outside"}

zone[name] if {
	some name, networks in data.zones
	some network in networks
	net.cidr_contains(network, input.context.source_ip)
}

decision := {"allow": true, "reason": concat(",", sort([name | some name, _ in zone]))} if count(zone) > 0
