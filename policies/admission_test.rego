package hub.admission_test

import rego.v1

import data.hub.admission

pinned := "agents/base@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

admitting(spec, environment) := {
	"kind": "agent",
	"name": "counter",
	"labels": {"environment": environment},
	"spec": spec,
	"before": null,
	"revision": "0123456789ab",
}

with_image(image) := admitting({"role": "analyst", "image": image, "capabilities": ["code.count"]}, null)

with_secrets(role) := admitting({"role": role, "image": "agents/base:1", "secrets": ["deploy-key"]}, null)

on_network(role, network) := admitting({"role": role, "image": "agents/base:1", "network": network}, null)

test_an_ordinary_agent_is_admitted if {
	admission.decision == {"allow": true, "reasons": set()} with input as with_image("agents/base:1")
}

test_foreign_images_are_not if {
	not admission.decision.allow with input as with_image("docker.io/library/python:3.12")
	not admission.decision.allow with input as with_image("agents/sub/base:1")
	not admission.decision.allow with input as admitting({"role": "analyst"}, null)
}

test_images_name_a_version if {
	not admission.decision.allow with input as with_image("agents/base")
	not admission.decision.allow with input as with_image("agents/base:latest")
	admission.decision.allow with input as with_image(pinned)
}

test_production_pins_by_digest if {
	not admission.decision.allow with input as with_image("agents/base:1") with data.environment as "production"
	not admission.decision.allow with input as admitting({"role": "analyst", "image": "agents/base:1"}, "production")
	admission.decision.allow with input as with_image(pinned) with data.environment as "production"
}

test_secrets_are_for_roles_that_need_them if {
	decision := admission.decision with input as with_secrets("analyst")
	decision.reasons == {`role analyst needs no secrets; ["performer", "librarian"] may have them`}
	admission.decision.allow with input as with_secrets("performer")
}

test_the_network_is_for_performers if {
	admission.decision.allow with input as on_network("analyst", "isolated")
	admission.decision.allow with input as on_network("performer", "egress")
	not admission.decision.allow with input as on_network("analyst", "egress")
	not admission.decision.allow with input as on_network("librarian", "egress")
}

test_sandboxes_are_strict if {
	not admission.decision.allow with input as admitting(
		{"role": "analyst", "image": "agents/base:1", "sandbox": "relaxed"},
		null,
	)
}

starting(argv) := admitting({"role": "analyst", "image": "agents/base:1", "executor": {"argv": argv}}, null)

test_nothing_starts_as_root if {
	admission.decision.allow with input as starting(["python3", "/workspace/sudoku.py"])
	decision := admission.decision with input as starting(["/usr/bin/sudo", "python3", "x.py"])
	decision.reasons == {"the agent would be started as root by sudo; start the program itself"}
	not admission.decision.allow with input as starting(["su"])
}

test_an_agent_has_a_role if not admission.decision.allow with input as admitting({"image": "agents/base:1"}, null)

test_what_goes_is_admitted if admission.decision.allow with input as admitting(null, null)

test_tasks_are_admitted if {
	admission.decision.allow with input as {
		"kind": "task",
		"name": "count",
		"spec": {"agent": "counter"},
		"before": null,
		"revision": "0123456789ab",
	}
}

test_unknown_kinds_are_not if not admission.decision.allow with input as {"kind": "secret", "name": "x", "spec": {}}
