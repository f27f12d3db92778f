# May this agent send this message to that recipient?
#
# The manifests' grants are the floor (messaging.sends); on top of them roles are kept apart: only a reviewer may tell a
# performer what to do, and nothing that is confidential goes to a topic, because subscribers come and go.
#
# Nothing here reads input.message.size_bytes: an answer is remembered by what the policy reads, and hardly two messages
# have the same size. How large a message may be says hub.yaml (router.maxBody).
package hub.message

import rego.v1

decision := {"allow": count(deny) == 0, "reasons": deny}

hub_receives := {
	"agent.hello",
	"agent.heartbeat",
	"task.started",
	"task.progress",
	"task.completed",
	"task.failed",
	"delegation.request",
	"capability.query",
	"security.alert",
}

hub_sends := {"task.assigned", "task.cancel", "policy.changed"}

deny contains "the question is not complete" if not is_complete

deny contains reason if {
	input.recipient.kind == "hub"
	not input.message.type in hub_receives
	not is_reply
	reason := sprintf("%s is no message for the hub", [input.message.type])
}

deny contains reason if {
	input.recipient.kind != "hub"
	not is_granted
	reason := sprintf("%s has no grant to send %s to %s %s (messaging.sends)", [
		input.sender.agent,
		input.message.type,
		input.recipient.kind,
		input.recipient.name,
	])
}

deny contains reason if {
	input.recipient.kind != "hub"
	input.message.type in (hub_receives | hub_sends)
	reason := sprintf("%s is a message of the hub's own", [input.message.type])
}

deny contains "only the hub sends broadcasts" if {
	input.recipient.kind != "hub"
	input.message.pattern == "broadcast"
}

deny contains reason if {
	input.recipient.kind == "agent"
	input.recipient.role == "performer"
	not input.sender.role in data.roles.may_command_performers
	not is_reply
	reason := sprintf("role %s may not send to a performer; %v may", [
		input.sender.role,
		data.roles.may_command_performers,
	])
}

deny contains reason if {
	input.recipient.kind == "topic"
	input.message.sensitivity in {"confidential", "restricted"}
	reason := sprintf("%s messages go to one agent, never to a topic", [input.message.sensitivity])
}

# Below a `not` with an undefined argument is undefined itself in OPA, so that what is missing is denied here.
is_complete if {
	is_string(input.sender.agent)
	is_string(input.sender.role)
	is_string(input.message.type)
	is_string(input.message.sensitivity)
	is_recipient
}

is_recipient if input.recipient.kind == "hub"

is_recipient if {
	input.recipient.kind == "topic"
	is_string(input.recipient.name)
}

is_recipient if {
	input.recipient.kind == "agent"
	is_string(input.recipient.name)
	is_string(input.recipient.role)
}

# The router has seen that it answers an open request of the recipient's.
is_reply if input.message.pattern == "reply"

is_granted if is_reply

is_granted if {
	input.recipient.kind == "agent"
	some grant in input.grants.sends
	grant.to == input.recipient.name
	some type in grant.types
	fits(type, input.message.type)
}

is_granted if {
	input.recipient.kind == "topic"
	some grant in input.grants.sends
	fits(grant.topic, input.recipient.name)
	permits_type(grant)
}

permits_type(grant) if count(object.get(grant, "types", [])) == 0

permits_type(grant) if {
	some type in grant.types
	fits(type, input.message.type)
}

# A pattern of topics or types: "*" is one part, a last ">" one part or more.
fits(">", _)

fits(pattern, topic) if {
	wanted := split(pattern, ".")
	given := split(topic, ".")
	count(wanted) == count(given)
	not differs(wanted, given)
}

fits(pattern, topic) if {
	endswith(pattern, ".>")
	wanted := split(trim_suffix(pattern, ".>"), ".")
	given := split(topic, ".")
	count(given) > count(wanted)
	not differs(wanted, array.slice(given, 0, count(wanted)))
}

differs(wanted, given) if {
	some index, part in wanted
	part != "*"
	part != given[index]
}
