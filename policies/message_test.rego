package hub.message_test

import rego.v1

import data.hub.message

request := {
	"sender": {
		"agent": "counter",
		"instance": "counter-0",
		"role": "analyst",
		"labels": {},
		"capabilities": ["code.count"],
		"trust": 1,
	},
	"recipient": {"kind": "agent", "name": "writer", "role": "reporter", "labels": {}, "capabilities": []},
	"message": {"type": "finding.raised", "pattern": "request", "size_bytes": 200, "sensitivity": "internal"},
	"grants": {"sends": [
		{"to": "writer", "types": ["finding.raised"]},
		{"to": "deployer", "types": ["deploy.request"]},
		{"topic": "findings.*", "types": []},
		{"topic": "reports.>", "types": ["report.published"]},
	]},
	"time": "2026-11-20T09:00:00Z",
}

changed(path, value) := json.patch(request, [{"op": "replace", "path": path, "value": value}])

to_topic(topic, type) := json.patch(request, [
	{"op": "replace", "path": "recipient", "value": {"kind": "topic", "name": topic}},
	{"op": "replace", "path": "message/type", "value": type},
])

to_hub(type) := json.patch(request, [
	{"op": "replace", "path": "recipient", "value": {"kind": "hub", "name": "hub"}},
	{"op": "replace", "path": "message/type", "value": type},
])

to_performer(role) := json.patch(request, [
	{"op": "replace", "path": "sender/role", "value": role},
	{"op": "replace", "path": "recipient/name", "value": "deployer"},
	{"op": "replace", "path": "recipient/role", "value": "performer"},
	{"op": "replace", "path": "message/type", "value": "deploy.request"},
])

test_a_granted_message_passes if {
	message.decision == {"allow": true, "reasons": set()} with input as request
}

test_another_type_does_not if {
	decision := message.decision with input as changed("message/type", "deploy.request")
	decision == {
		"allow": false,
		"reasons": {"counter has no grant to send deploy.request to agent writer (messaging.sends)"},
	}
}

test_another_recipient_does_not if {
	not message.decision.allow with input as changed("recipient/name", "reviewer")
}

test_no_grants_no_message if not message.decision.allow with input as changed("grants", {})

test_a_topic_pattern_is_one_part_deep if {
	message.decision.allow with input as to_topic("findings.style", "finding.raised")
	not message.decision.allow with input as to_topic("findings.style.python", "finding.raised")
	not message.decision.allow with input as to_topic("findings", "finding.raised")
}

test_a_topic_pattern_with_a_tail_is_any_depth if {
	message.decision.allow with input as to_topic("reports.daily.code", "report.published")
	not message.decision.allow with input as to_topic("reports", "report.published")
	not message.decision.allow with input as to_topic("reports.daily", "finding.raised")
}

test_confidential_messages_stay_off_topics if {
	message.decision.allow with input as changed("message/sensitivity", "confidential")
	not message.decision.allow with input as json.patch(
		to_topic("findings.style", "finding.raised"),
		[{"op": "replace", "path": "message/sensitivity", "value": "confidential"}],
	)
}

test_the_hub_receives_its_own_types_only if {
	message.decision.allow with input as to_hub("agent.heartbeat")
	not message.decision.allow with input as to_hub("finding.raised")
	not message.decision.allow with input as to_hub("task.assigned")
}

test_types_of_the_hub_do_not_go_between_agents if {
	granted := message.decision with input as json.patch(request, [
		{"op": "replace", "path": "message/type", "value": "task.assigned"},
		{"op": "replace", "path": "grants/sends", "value": [{"to": "writer", "types": ["task.assigned"]}]},
	])
	granted.reasons == {"task.assigned is a message of the hub's own"}
}

test_agents_do_not_broadcast if not message.decision.allow with input as changed("message/pattern", "broadcast")

test_only_a_reviewer_commands_a_performer if {
	message.decision.allow with input as to_performer("reviewer")
	not message.decision.allow with input as to_performer("analyst")
}

test_a_reply_needs_no_grant if {
	message.decision.allow with input as json.patch(request, [
		{"op": "replace", "path": "grants/sends", "value": []},
		{"op": "add", "path": "message/reply", "value": true},
	])
}

test_large_messages_are_refused if {
	not message.decision.allow with input as request with data.limits.message_bytes as 100
}

test_an_empty_question_is_denied if not message.decision.allow with input as {}
