# May this agent give part of its work to that one?
package hub.delegation

import rego.v1

decision := {"allow": count(deny) == 0, "reasons": deny}

private_only := {"confidential", "restricted"}

deny contains "the question is not complete" if not is_complete

deny contains reason if {
	not is_granted
	reason := sprintf("%v may not delegate to %v (delegation.to)", [input.parent.name, input.child.name])
}

deny contains reason if {
	input.depth > deepest
	reason := sprintf("depth %v is more than %v", [input.depth, deepest])
}

# A child never has a capability that its parent lacks: delegation narrows.
deny contains reason if {
	some capability in input.capabilities
	not capability in input.parent.capabilities
	reason := sprintf("%s cannot pass on %s, which it lacks", [input.parent.name, capability])
}

deny contains reason if {
	some capability in input.capabilities
	not capability in input.child.capabilities
	reason := sprintf("%s lacks %s", [input.child.name, capability])
}

deny contains reason if {
	input.child.role == "performer"
	not input.parent.role in data.roles.may_command_performers
	reason := sprintf("role %v may not delegate to a performer", [input.parent.role])
}

deny contains reason if {
	input.task.sensitivity in private_only
	not is_private
	reason := sprintf("%s work may not reach %s", [input.task.sensitivity, input.child.name])
}

deny contains "no budget is left to delegate" if {
	some left in budgets
	left <= 0
}

deepest := min([data.limits.delegation_depth, object.get(input.parent, ["delegation", "maxDepth"], 1)])

# One number, or several by name: tasks, cpus.
budgets contains input.budget_left if is_number(input.budget_left)

budgets contains left if {
	is_object(input.budget_left)
	some left in input.budget_left
}

# Below a `not` with an undefined argument is undefined itself in OPA, so that what is missing is denied here.
is_complete if {
	is_string(input.parent.name)
	is_string(input.parent.role)
	is_array(input.parent.capabilities)
	is_string(input.child.name)
	is_string(input.child.role)
	is_array(input.child.capabilities)
	is_string(input.child.exposure)
	is_array(input.capabilities)
	is_number(input.depth)
	is_string(input.task.sensitivity)
}

is_granted if input.child.name in input.parent.delegation.to

is_private if {
	input.child.exposure in {"none", "private"}
	input.child.sandboxed == true
}
