package hub.admission_test

import rego.v1

import data.hub.admission

question := {
	"kind": "agent",
	"name": "counter",
	"spec": {
		"role": "analyst",
		"image": "agents/base:1",
		"capabilities": ["code.count"],
		"executor": {"type": "command", "argv": ["python3", "/workspace/count.py"]},
	},
	"before": null,
	"environment": null,
	"revision": "0123456789ab",
}

digest := "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

changed(path, value) := json.patch(question, [{"op": "add", "path": path, "value": value}])

with_role(role, path, value) := json.patch(question, [
	{"op": "replace", "path": "spec/role", "value": role},
	{"op": "add", "path": path, "value": value},
])

test_an_ordinary_agent_is_admitted if {
	admission.decision == {"allow": true, "reasons": set()} with input as question
}

test_foreign_images_are_not if {
	not admission.decision.allow with input as changed("spec/image", "docker.io/library/python:3.12")
	not admission.decision.allow with input as changed("spec/image", "agents/sub/base:1")
	not admission.decision.allow with input as json.remove(question, ["spec/image"])
}

test_images_name_a_version if {
	not admission.decision.allow with input as changed("spec/image", "agents/base")
	not admission.decision.allow with input as changed("spec/image", "agents/base:latest")
	admission.decision.allow with input as changed("spec/image", concat("@", ["agents/base", digest]))
}

test_production_pins_by_digest if {
	not admission.decision.allow with input as question with data.environment as "production"
	not admission.decision.allow with input as changed("environment", "production")
	admission.decision.allow with input as changed("spec/image", concat("@", ["agents/base", digest]))
		with data.environment as "production"
}

test_secrets_are_for_roles_that_need_them if {
	decision := admission.decision with input as changed("spec/secrets", ["deploy-key"])
	decision.reasons == {"a analyst needs no secrets; only performer, librarian may have them"}
	admission.decision.allow with input as with_role("performer", "spec/secrets", ["deploy-key"])
}

test_the_network_is_for_performers if {
	admission.decision.allow with input as changed("spec/network", "isolated")
	admission.decision.allow with input as with_role("performer", "spec/network", "egress")
	not admission.decision.allow with input as changed("spec/network", "egress")
	not admission.decision.allow with input as with_role("librarian", "spec/network", "egress")
}

test_sandboxes_are_strict if not admission.decision.allow with input as changed("spec/sandbox", "relaxed")

test_what_goes_is_admitted if {
	admission.decision.allow with input as json.patch(question, [
		{"op": "replace", "path": "before", "value": question.spec},
		{"op": "replace", "path": "spec", "value": null},
	])
}

test_tasks_are_admitted if {
	admission.decision.allow with input as {
		"kind": "task",
		"name": "count",
		"spec": {"agent": "counter"},
		"before": null,
		"environment": null,
		"revision": "0123456789ab",
	}
}

test_unknown_kinds_are_not if not admission.decision.allow with input as changed("kind", "secret")
