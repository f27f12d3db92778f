package hub.message_test

import rego.v1

import data.hub.message

to_agent(name, role) := {"kind": "agent", "name": name, "role": role, "labels": {}, "capabilities": []}

to_topic(name) := {"kind": "topic", "name": name}

hub := {"kind": "hub", "name": "hub"}

grants := [
	{"to": "writer", "types": ["finding.raised"]},
	{"to": "deployer", "types": ["deploy.request"]},
	{"to": "checker", "types": ["task.assigned"]},
	{"topic": "findings.*", "types": []},
	{"topic": "reports.>", "types": ["report.published"]},
]

sending(role, recipient, sent, given) := {
	"sender": {
		"agent": "counter",
		"instance": "counter-0",
		"role": role,
		"labels": {},
		"capabilities": ["code.count"],
		"trust": 1,
	},
	"recipient": recipient,
	"message": sent,
	"grants": {"sends": given},
	"time": "2026-11-20T09:00:00Z",
}

sent(type, sensitivity) := {
	"type": type,
	"pattern": "request",
	"size_bytes": 200,
	"sensitivity": sensitivity,
}

request(recipient, type) := sending("analyst", recipient, sent(type, "internal"), grants)

test_a_granted_message_passes if {
	message.decision == {"allow": true, "reasons": set()} with input as request(to_agent("writer", "reporter"), "finding.raised")
}

test_another_type_does_not if {
	decision := message.decision with input as request(to_agent("writer", "reporter"), "deploy.request")
	decision == {
		"allow": false,
		"reasons": {"counter has no grant to send deploy.request to agent writer (messaging.sends)"},
	}
}

test_another_recipient_does_not if {
	not message.decision.allow with input as request(to_agent("reviewer", "reviewer"), "finding.raised")
}

test_no_grants_no_message if {
	not message.decision.allow with input as sending("analyst", to_agent("writer", "reporter"), sent("finding.raised", "internal"), [])
}

test_a_topic_pattern_is_one_part_deep if {
	message.decision.allow with input as request(to_topic("findings.style"), "finding.raised")
	not message.decision.allow with input as request(to_topic("findings.style.python"), "finding.raised")
	not message.decision.allow with input as request(to_topic("findings"), "finding.raised")
}

test_a_topic_pattern_with_a_tail_is_any_depth if {
	message.decision.allow with input as request(to_topic("reports.daily.code"), "report.published")
	not message.decision.allow with input as request(to_topic("reports"), "report.published")
	not message.decision.allow with input as request(to_topic("reports.daily"), "finding.raised")
}

with_types(types) := sending(
	"analyst",
	to_topic("findings.style"),
	sent("finding.raised", "internal"),
	[{"topic": "findings.*", "types": types}],
)

test_types_are_patterns_too if {
	message.decision.allow with input as with_types([">"])
	message.decision.allow with input as with_types(["review.done", "finding.*"])
	not message.decision.allow with input as with_types(["review.>"])
}

test_confidential_messages_stay_off_topics if {
	message.decision.allow with input as sending(
		"analyst",
		to_agent("writer", "reporter"),
		sent("finding.raised", "confidential"),
		grants,
	)
	not message.decision.allow with input as sending(
		"analyst",
		to_topic("findings.style"),
		sent("finding.raised", "confidential"),
		grants,
	)
}

test_the_hub_receives_its_own_types_only if {
	message.decision.allow with input as request(hub, "agent.heartbeat")
	not message.decision.allow with input as request(hub, "finding.raised")
	not message.decision.allow with input as request(hub, "task.assigned")
}

test_types_of_the_hub_do_not_go_between_agents if {
	decision := message.decision with input as request(to_agent("checker", "checker"), "task.assigned")
	decision.reasons == {"task.assigned is a message of the hub's own"}
}

test_agents_do_not_broadcast if {
	not message.decision.allow with input as sending(
		"analyst",
		to_agent("writer", "reporter"),
		{"type": "finding.raised", "pattern": "broadcast", "size_bytes": 200, "sensitivity": "internal"},
		grants,
	)
}

test_only_a_reviewer_commands_a_performer if {
	message.decision.allow with input as sending(
		"reviewer",
		to_agent("deployer", "performer"),
		sent("deploy.request", "internal"),
		grants,
	)
	not message.decision.allow with input as request(to_agent("deployer", "performer"), "deploy.request")
}

test_a_reply_needs_no_grant if {
	message.decision.allow with input as sending(
		"analyst",
		to_agent("deployer", "performer"),
		{"type": "deploy.checked", "pattern": "reply", "size_bytes": 9, "sensitivity": "internal"},
		[],
	)
}

test_an_empty_question_is_denied if not message.decision.allow with input as {}
