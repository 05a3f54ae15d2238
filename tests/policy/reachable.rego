package mcp.authz

default decision := false

parents[role] := [parent | parent := data.roles[role].parent] if some role, _ in data.roles

reached := graph.reachable(parents, {role | some role in input.principal.roles})

decision if "reader" in reached
