# May this agent be given this task?
package hub.task

import rego.v1

decision := {"allow": count(deny) == 0, "reasons": deny}

private_only := {"confidential", "restricted"}

known := {"public", "internal"} | private_only

deny contains "the question is not complete" if not is_complete

deny contains reason if {
	some capability in input.task.requires
	not capability in input.agent.capabilities
	reason := sprintf("%s lacks %s", [input.agent.name, capability])
}

deny contains reason if {
	not input.task.sensitivity in known
	reason := sprintf("there is no sensitivity %v", [input.task.sensitivity])
}

deny contains reason if {
	input.task.sensitivity in private_only
	not input.agent.exposure in {"none", "private"}
	reason := sprintf("%s work may not reach %s, whose model is %v", [
		input.task.sensitivity,
		input.agent.name,
		input.agent.exposure,
	])
}

deny contains reason if {
	input.task.sensitivity in private_only
	not is_sandboxed
	reason := sprintf("%s work needs an enforced sandbox, which %s has not", [
		input.task.sensitivity,
		input.agent.name,
	])
}

# The inbox: nobody has reviewed what lies there.

deny contains reason if {
	input.task.source == "inbox"
	not input.task.sensitivity in data.inbox.sensitivities
	reason := sprintf("%v work comes from git or the API, never from the inbox", [input.task.sensitivity])
}

deny contains reason if {
	input.task.source == "inbox"
	not input.agent.role in data.inbox.roles
	not input.task.uid in data.inbox.trusted_uids
	reason := sprintf("uid %v may not give work to a %v through the inbox", [input.task.uid, input.agent.role])
}

# Work labelled for business hours waits for people to be there.

deny contains reason if {
	object.get(input.task, ["labels", "hours"], "any") == "business"
	not in_business_hours
	reason := sprintf("%v is outside of business hours (%s to %s UTC, working days)", [
		input.time,
		data.hours.from,
		data.hours.to,
	])
}

# Below a `not` with an undefined argument is undefined itself in OPA, so that what is missing is denied here.
is_complete if {
	is_string(input.task.name)
	is_string(input.task.sensitivity)
	input.task.source in {"git", "inbox", "api"}
	is_array(input.task.requires)
	is_string(input.agent.name)
	is_string(input.agent.role)
	is_string(input.agent.exposure)
	is_array(input.agent.capabilities)
	is_string(input.time)
	has_owner
}

has_owner if input.task.source != "inbox"

has_owner if is_number(input.task.uid)

is_sandboxed if input.agent.sandboxed == true

in_business_hours if {
	clock := substring(input.time, 11, 5)
	clock >= data.hours.from
	clock < data.hours.to
	time.weekday(time.parse_ns("2006-01-02T15:04:05Z", input.time)) in data.hours.days
}
