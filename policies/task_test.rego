package hub.task_test

import rego.v1

import data.hub.task

work(sensitivity, requires, labels) := {
	"name": "count-lines",
	"labels": labels,
	"sensitivity": sensitivity,
	"source": "git",
	"uid": null,
	"requires": requires,
	"revision": "0123456789ab",
	"priority": 0,
}

dropped(sensitivity, uid) := {
	"name": "count-lines",
	"labels": {},
	"sensitivity": sensitivity,
	"source": "inbox",
	"uid": uid,
	"requires": ["code.count"],
	"revision": "",
	"priority": 0,
}

worker(role, exposure, sandboxed) := {
	"name": "counter",
	"role": role,
	"labels": {},
	"capabilities": ["code.count", "git.read"],
	"trust": 1,
	"exposure": exposure,
	"sandboxed": sandboxed,
}

counter := worker("analyst", "none", true)

assigning(given, to) := {"task": given, "agent": to, "time": "2026-11-20T09:00:00Z"}

ordinary := work("internal", ["code.count"], {})

secret := work("confidential", ["code.count"], {})

business_at(time) := {
	"task": work("internal", ["code.count"], {"hours": "business"}),
	"agent": counter,
	"time": time,
}

test_a_capable_agent_gets_the_task if {
	task.decision == {"allow": true, "reasons": set()} with input as assigning(ordinary, counter)
}

test_a_missing_capability_is_named if {
	decision := task.decision with input as assigning(work("internal", ["code.count", "deps.read"], {}), counter)
	decision == {"allow": false, "reasons": {"counter lacks deps.read"}}
}

test_confidential_work_needs_a_private_model if {
	task.decision.allow with input as assigning(secret, worker("analyst", "private", true))
	not task.decision.allow with input as assigning(secret, worker("analyst", "public", true))
}

test_internal_work_may_reach_a_public_model if {
	task.decision.allow with input as assigning(ordinary, worker("analyst", "public", true))
}

test_confidential_work_needs_a_sandbox if {
	decision := task.decision with input as assigning(secret, worker("analyst", "none", false))
	decision.reasons == {"confidential work needs an enforced sandbox, which counter has not"}
}

test_internal_work_does_not if {
	task.decision.allow with input as assigning(ordinary, worker("analyst", "none", false))
}

test_an_unknown_sensitivity_is_denied if {
	not task.decision.allow with input as assigning(work("secret", [], {}), counter)
}

test_the_inbox_gives_ordinary_work if {
	task.decision.allow with input as assigning(dropped("internal", 1000), counter)
}

test_the_inbox_does_not_command_performers if {
	decision := task.decision with input as assigning(dropped("internal", 1000), worker("performer", "none", true))
	decision.reasons == {"uid 1000 may not give work to a performer through the inbox"}
}

test_a_trusted_owner_does if {
	task.decision.allow with input as assigning(dropped("internal", 1000), worker("performer", "none", true))
		with data.inbox.trusted_uids as [1000]
}

test_the_inbox_gives_no_confidential_work if {
	not task.decision.allow with input as assigning(dropped("confidential", 1000), counter)
}

test_the_inbox_says_who if {
	not task.decision.allow with input as assigning(dropped("internal", null), counter)
}

test_business_hours if {
	task.decision.allow with input as business_at("2026-11-20T07:00:00Z")
	task.decision.allow with input as business_at("2026-11-20T18:59:00Z")
	not task.decision.allow with input as business_at("2026-11-20T19:00:00Z")
	not task.decision.allow with input as business_at("2026-11-20T06:59:00Z")
}

test_no_business_on_a_saturday if {
	decision := task.decision with input as business_at("2026-11-21T09:00:00Z")
	decision.reasons == {"2026-11-21T09:00:00Z is outside of business hours (07:00 to 19:00 UTC, working days)"}
}

test_other_work_has_no_hours if {
	task.decision.allow with input as {"task": ordinary, "agent": counter, "time": "2026-11-21T03:00:00Z"}
}

test_an_empty_question_is_denied if not task.decision.allow with input as {}
