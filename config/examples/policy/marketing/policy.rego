# A campaign to many people goes out when someone else has agreed, and always as the caller's team.
package mcp.authz

import rego.v1

default decision := {"allow": false, "reason": "campaigns are sent by marketing"}

decision := {"allow": true} if not campaign

decision := {"allow": true, "obligations": {"inject": as_team, "cost": recipients * 0.001}} if {
	sender
	recipients <= data.campaigns.free
}

decision := {
	"allow": true,
	"reason": "a campaign to many people waits for an approval",
	"obligations": {
		"inject": as_team,
		"approve": {"count": 1, "within": "24h"},
		"cost": recipients * 0.001,
	},
} if {
	sender
	recipients > data.campaigns.free
	recipients <= data.campaigns.most
}

decision := {"allow": false, "reason": "a campaign has too many recipients"} if {
	sender
	recipients > data.campaigns.most
}

campaign if {
	input.mcp.kind == "tool"
	input.tool.original == "send_campaign"
}

sender if {
	campaign
	"marketing" in input.principal.groups
}

recipients := count(input.mcp.arguments.recipients)

as_team := {"sender": input.principal.tenant}

default visible := true

visible := false if {
	campaign
	not sender
}
