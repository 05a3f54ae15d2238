# Grants that ask for a reason.
package mcp.authz

import rego.v1

justified(grant) if not grant.justification

justified(_) if count(trim_space(input.context.justification)) > 0
