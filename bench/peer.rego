package hub.message

default decision := {"allow": false}

decision := {"allow": true} if {
	some grant in input.grants.sends
	grant.to == input.recipient.name
	input.message.type in grant.types
}
