package mcp.authz

import input.mcp.arguments as args
import input.principal

default decision := false

decision if {
	path := ["claims", "level"]
	object.get(principal, path, 0) > 1
	args["region"] == "eu"
}

decision if args.items[0].qty == 2

decision if {
	some i
	args.items[i].qty > 4
	args.items[i].price == 2
}

decision if data.roles[principal.roles[0]].level == 3
