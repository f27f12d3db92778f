package hub.task_test

import rego.v1

import data.hub.task

question := {
	"task": {
		"name": "count-lines",
		"labels": {},
		"sensitivity": "internal",
		"source": "git",
		"uid": null,
		"requires": ["code.count"],
		"revision": "0123456789ab",
		"priority": 0,
	},
	"agent": {
		"name": "counter",
		"role": "analyst",
		"labels": {},
		"capabilities": ["code.count", "git.read"],
		"trust": 1,
		"exposure": "none",
		"sandboxed": true,
	},
	"time": "2026-11-20T09:00:00Z",
}

changed(path, value) := json.patch(question, [{"op": "replace", "path": path, "value": value}])

confidential(path, value) := json.patch(question, [
	{"op": "replace", "path": "task/sensitivity", "value": "confidential"},
	{"op": "replace", "path": path, "value": value},
])

from_inbox(uid, role) := json.patch(question, [
	{"op": "replace", "path": "task/source", "value": "inbox"},
	{"op": "replace", "path": "task/uid", "value": uid},
	{"op": "replace", "path": "agent/role", "value": role},
])

labelled_at(time) := json.patch(question, [
	{"op": "replace", "path": "task/labels", "value": {"hours": "business"}},
	{"op": "replace", "path": "time", "value": time},
])

test_a_capable_agent_gets_the_task if {
	task.decision == {"allow": true, "reasons": set()} with input as question
}

test_a_missing_capability_is_named if {
	decision := task.decision with input as changed("task/requires", ["code.count", "deps.read"])
	decision == {"allow": false, "reasons": {"counter lacks deps.read"}}
}

test_confidential_work_needs_a_private_model if {
	task.decision.allow with input as confidential("agent/exposure", "private")
	not task.decision.allow with input as confidential("agent/exposure", "public")
}

test_internal_work_may_reach_a_public_model if {
	task.decision.allow with input as changed("agent/exposure", "public")
}

test_confidential_work_needs_a_sandbox if {
	decision := task.decision with input as confidential("agent/sandboxed", false)
	decision.reasons == {"confidential work needs an enforced sandbox, which counter has not"}
}

test_internal_work_does_not if task.decision.allow with input as changed("agent/sandboxed", false)

test_an_unknown_sensitivity_is_denied if not task.decision.allow with input as changed("task/sensitivity", "secret")

test_the_inbox_gives_ordinary_work if task.decision.allow with input as from_inbox(1000, "analyst")

test_the_inbox_does_not_command_performers if {
	decision := task.decision with input as from_inbox(1000, "performer")
	decision.reasons == {"uid 1000 may not give work to a performer through the inbox"}
}

test_a_trusted_owner_does if {
	task.decision.allow with input as from_inbox(1000, "performer") with data.inbox.trusted_uids as [1000]
}

test_the_inbox_gives_no_confidential_work if {
	not task.decision.allow with input as json.patch(
		from_inbox(1000, "analyst"),
		[{"op": "replace", "path": "task/sensitivity", "value": "confidential"}],
	)
}

test_business_hours if {
	task.decision.allow with input as labelled_at("2026-11-20T07:00:00Z")
	task.decision.allow with input as labelled_at("2026-11-20T18:59:00Z")
	not task.decision.allow with input as labelled_at("2026-11-20T19:00:00Z")
	not task.decision.allow with input as labelled_at("2026-11-20T06:59:00Z")
}

test_no_business_on_a_saturday if {
	decision := task.decision with input as labelled_at("2026-11-21T09:00:00Z")
	decision.reasons == {"2026-11-21T09:00:00Z is outside of business hours (07:00 to 19:00 UTC, working days)"}
}

test_other_work_has_no_hours if task.decision.allow with input as changed("time", "2026-11-21T03:00:00Z")

test_an_empty_question_is_denied if not task.decision.allow with input as {}
