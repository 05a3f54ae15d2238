package mcp.authz

default decision := false

decision if not reason

reason := "amount" if input.mcp.arguments.amount > 10

reason := "region" if input.mcp.arguments.region == "us"
