package mcp.authz

default decision := false

decision if input.mcp.arguments.nothing == null

decision if object.get(input.mcp.arguments, "region", null) == null

decision if not input.mcp.arguments.flag

decision if input.mcp.arguments.flag == false
