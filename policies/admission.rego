# May this resource be what git says? Asked while planning, of the new specification (input.spec) and the one in force
# (input.before); a resource that goes has no specification and is always admitted.
package hub.admission

import rego.v1

decision := {"allow": count(deny) == 0, "reasons": deny}

deny contains "there are no rules for this kind of resource" if not is_known

deny contains "the agent has no role" if {
	is_agent
	not has_role
}

deny contains reason if {
	is_agent
	not glob.match("agents/*", ["/"], image)
	reason := sprintf("image %s is not one of agents/*", [image])
}

deny contains reason if {
	is_agent
	not is_pinned
	not is_tagged
	reason := sprintf("image %s has no tag; name a version", [image])
}

deny contains reason if {
	is_agent
	endswith(image, ":latest")
	reason := sprintf("image %s moves without a commit; name a version", [image])
}

deny contains reason if {
	is_agent
	is_production
	not is_pinned
	reason := sprintf("image %s is not pinned by digest (@sha256:…), which production needs", [image])
}

deny contains reason if {
	is_agent
	count(object.get(input.spec, "secrets", [])) > 0
	not input.spec.role in data.roles.may_read_secrets
	reason := sprintf("role %v needs no secrets; %v may have them", [input.spec.role, data.roles.may_read_secrets])
}

deny contains reason if {
	is_agent
	object.get(input.spec, "network", "isolated") != "isolated"
	not input.spec.role in data.roles.may_use_network
	reason := sprintf("role %v stays on the isolated network; %v may leave it", [
		input.spec.role,
		data.roles.may_use_network,
	])
}

# The strict sandbox has no root: an ordinary user without capabilities, who cannot gain any.
deny contains "agents run in the strict sandbox; only the operator may relax one" if {
	is_agent
	object.get(input.spec, "sandbox", "strict") != "strict"
}

deny contains reason if {
	is_agent
	program in {"doas", "pkexec", "su", "sudo"}
	reason := sprintf("the agent would be started as root by %s; start the program itself", [program])
}

is_known if input.kind in {"agent", "task", "router"}

has_role if is_string(input.spec.role)

is_agent if {
	input.kind == "agent"
	is_object(input.spec)
}

image := object.get(input.spec, "image", "")

# What the agent is started with, without the directories.
program := parts[count(parts) - 1] if parts := split(input.spec.executor.argv[0], "/")

is_pinned if regex.match(`@sha256:[0-9a-f]{64}$`, image)

# Behind the last slash, because a registry may have a port.
is_tagged if {
	parts := split(image, "/")
	contains(parts[count(parts) - 1], ":")
}

is_production if data.environment == "production"

is_production if input.labels.environment == "production"
