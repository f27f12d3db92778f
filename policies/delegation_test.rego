package hub.delegation_test

import rego.v1

import data.hub.delegation

question := {
	"parent": {
		"name": "writer",
		"role": "reporter",
		"labels": {},
		"capabilities": ["report.write", "git.read", "code.count"],
		"trust": 1,
		"exposure": "none",
		"sandboxed": true,
		"delegation": {"to": ["counter", "deployer"], "maxDepth": 2},
	},
	"child": {
		"name": "counter",
		"role": "analyst",
		"labels": {},
		"capabilities": ["code.count", "git.read", "deps.read"],
		"trust": 1,
		"exposure": "none",
		"sandboxed": true,
	},
	"task": {"name": "count", "labels": {}, "sensitivity": "internal"},
	"depth": 1,
	"capabilities": ["code.count"],
	"budget_left": {"tasks": 3, "cpus": 1},
	"time": "2026-11-20T09:00:00Z",
}

changed(path, value) := json.patch(question, [{"op": "replace", "path": path, "value": value}])

to_performer(role) := json.patch(question, [
	{"op": "replace", "path": "parent/role", "value": role},
	{"op": "replace", "path": "child/role", "value": "performer"},
])

confidential(path, value) := json.patch(question, [
	{"op": "replace", "path": "task/sensitivity", "value": "confidential"},
	{"op": "replace", "path": path, "value": value},
])

test_a_granted_delegation_passes if {
	delegation.decision == {"allow": true, "reasons": set()} with input as question
}

test_only_to_those_the_parent_names if not delegation.decision.allow with input as changed("child/name", "reader")

test_depth_is_limited_by_the_parent if {
	delegation.decision.allow with input as changed("depth", 2)
	not delegation.decision.allow with input as changed("depth", 3)
}

test_depth_is_limited_by_the_team if {
	not delegation.decision.allow with input as changed("depth", 2) with data.limits.delegation_depth as 1
}

test_depth_must_be_said if not delegation.decision.allow with input as json.remove(question, ["depth"])

test_capabilities_only_narrow if {
	decision := delegation.decision with input as changed("capabilities", ["deps.read"])
	decision.reasons == {"writer cannot pass on deps.read, which it lacks"}
}

test_the_child_must_be_able if not delegation.decision.allow with input as changed("capabilities", ["report.write"])

test_performers_listen_to_reviewers if {
	delegation.decision.allow with input as to_performer("reviewer")
	not delegation.decision.allow with input as to_performer("reporter")
}

test_confidential_work_stays_private if {
	delegation.decision.allow with input as confidential("child/exposure", "private")
	not delegation.decision.allow with input as confidential("child/exposure", "public")
	not delegation.decision.allow with input as confidential("child/sandboxed", false)
}

test_a_spent_budget_ends_it if {
	not delegation.decision.allow with input as changed("budget_left", {"tasks": 0, "cpus": 1})
	not delegation.decision.allow with input as changed("budget_left", 0)
}

test_an_empty_question_is_denied if not delegation.decision.allow with input as {}
