# Conditions on arguments: each that a grant names has to be there and to fit.
package mcp.authz

import rego.v1

arguments_fit(grant) if {
	every name, wanted in grant.arguments {
		argument_fits(input.mcp.arguments[name], wanted)
	}
}

argument_fits(value, wanted) if value in wanted.values

argument_fits(value, wanted) if value == input.principal.claims[wanted.claim]
