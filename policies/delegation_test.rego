package hub.delegation_test

import rego.v1

import data.hub.delegation

parent(role) := {
	"name": "writer",
	"role": role,
	"labels": {},
	"capabilities": ["report.write", "git.read", "code.count"],
	"trust": 1,
	"exposure": "none",
	"sandboxed": true,
	"delegation": {"to": ["counter", "deployer"], "maxDepth": 2},
}

child(name, role, exposure, sandboxed) := {
	"name": name,
	"role": role,
	"labels": {},
	"capabilities": ["code.count", "git.read", "deps.read"],
	"trust": 1,
	"exposure": exposure,
	"sandboxed": sandboxed,
}

counter := child("counter", "analyst", "none", true)

delegating(from, to, sensitivity, depth, capabilities, budget) := {
	"parent": from,
	"child": to,
	"task": {"name": "count", "labels": {}, "sensitivity": sensitivity},
	"depth": depth,
	"capabilities": capabilities,
	"budget_left": budget,
	"time": "2026-11-20T09:00:00Z",
}

budget := {"tasks": 3, "cpus": 1}

between(from, to) := delegating(from, to, "internal", 1, ["code.count"], budget)

to_counter(sensitivity, depth, capabilities) := delegating(
	parent("reporter"),
	counter,
	sensitivity,
	depth,
	capabilities,
	budget,
)

test_a_granted_delegation_passes if {
	delegation.decision == {"allow": true, "reasons": set()} with input as between(parent("reporter"), counter)
}

test_only_to_those_the_parent_names if {
	not delegation.decision.allow with input as between(parent("reporter"), child("reader", "analyst", "none", true))
}

test_depth_is_limited_by_the_parent if {
	delegation.decision.allow with input as to_counter("internal", 2, ["code.count"])
	not delegation.decision.allow with input as to_counter("internal", 3, ["code.count"])
}

test_depth_is_limited_by_the_team if {
	not delegation.decision.allow with input as to_counter("internal", 2, ["code.count"])
		with data.limits.delegation_depth as 1
}

test_depth_must_be_said if {
	not delegation.decision.allow with input as to_counter("internal", null, ["code.count"])
}

test_capabilities_only_narrow if {
	decision := delegation.decision with input as to_counter("internal", 1, ["deps.read"])
	decision.reasons == {"writer cannot pass on deps.read, which it lacks"}
}

test_the_child_must_be_able if {
	not delegation.decision.allow with input as to_counter("internal", 1, ["report.write"])
}

test_performers_listen_to_reviewers if {
	delegation.decision.allow with input as between(parent("reviewer"), child("deployer", "performer", "none", true))
	not delegation.decision.allow with input as between(parent("reporter"), child("deployer", "performer", "none", true))
}

test_confidential_work_stays_private if {
	delegation.decision.allow with input as to_counter("confidential", 1, ["code.count"])
	not delegation.decision.allow with input as delegating(
		parent("reporter"),
		child("counter", "analyst", "public", true),
		"confidential",
		1,
		["code.count"],
		budget,
	)
	not delegation.decision.allow with input as delegating(
		parent("reporter"),
		child("counter", "analyst", "none", false),
		"restricted",
		1,
		["code.count"],
		budget,
	)
}

test_a_spent_budget_ends_it if {
	not delegation.decision.allow with input as delegating(parent("reporter"), counter, "internal", 1, [], {"tasks": 0})
	not delegation.decision.allow with input as delegating(parent("reporter"), counter, "internal", 1, [], 0)
	delegation.decision.allow with input as delegating(parent("reporter"), counter, "internal", 1, [], null)
}

test_an_empty_question_is_denied if not delegation.decision.allow with input as {}
