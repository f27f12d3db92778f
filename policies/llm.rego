# May this agent put this request to that model? Asked by the relay, after the law of sensitivity and before budgets.
#
# Nothing here reads input.used or input.request: an answer is remembered by what the policy reads. How much may be used
# says the manifest (llm.budget).
package hub.llm

import rego.v1

decision := {"allow": count(deny) == 0, "reasons": deny}

private_only := {"confidential", "restricted"}

deny contains "the question is not complete" if not is_complete

deny contains reason if {
	input.sensitivity in private_only
	input.provider.exposure != "private"
	reason := sprintf("%s has had %s work, which may not reach %s", [
		input.agent.name,
		input.sensitivity,
		input.provider.name,
	])
}

# Who may act on the world does not take advice from outside.
deny contains reason if {
	input.provider.exposure == "public"
	input.agent.role in data.roles.private_models_only
	reason := sprintf("role %s uses private models only", [input.agent.role])
}

deny contains reason if {
	input.provider.exposure == "public"
	input.agent.trust < data.limits.trust_for_public_models
	reason := sprintf("trust %v is less than %v, which a public model needs", [
		input.agent.trust,
		data.limits.trust_for_public_models,
	])
}

# Below a `not` with an undefined argument is undefined itself in OPA, so that what is missing is denied here.
is_complete if {
	is_string(input.agent.name)
	is_string(input.agent.role)
	is_number(input.agent.trust)
	is_string(input.provider.name)
	input.provider.exposure in {"private", "public"}
	input.sensitivity in ({"public", "internal"} | private_only)
}
