package hub.llm_test

import rego.v1

import data.hub.llm

agent(role, trust) := {
	"name": "writer",
	"instance": "writer-0",
	"role": role,
	"labels": {},
	"capabilities": ["report.write"],
	"trust": trust,
}

asking(who, exposure, sensitivity) := {
	"agent": who,
	"task": {"name": "report", "run": "r1"},
	"provider": {"name": "cloud", "type": "anthropic", "exposure": exposure},
	"model": {"name": "claude-opus", "cost": {"input": 15, "output": 75}},
	"request": {"api": "anthropic", "stream": true, "tokens": 4096},
	"sensitivity": sensitivity,
	"used": {
		"today": {"requests": 3, "tokens": 9000, "cost": 0.4},
		"task": {"requests": 1, "tokens": 3000, "cost": 0.1},
	},
	"time": "2026-11-20T09:00:00Z",
}

test_ordinary_work_may_reach_a_public_model if {
	llm.decision == {"allow": true, "reasons": set()} with input as asking(agent("reporter", 1), "public", "internal")
}

test_confidential_work_may_not if {
	decision := llm.decision with input as asking(agent("reporter", 1), "public", "confidential")
	decision.reasons == {"writer has had confidential work, which may not reach cloud"}
	llm.decision.allow with input as asking(agent("reporter", 1), "private", "restricted")
}

test_performers_use_private_models if {
	decision := llm.decision with input as asking(agent("performer", 1), "public", "internal")
	decision.reasons == {"role performer uses private models only"}
	llm.decision.allow with input as asking(agent("performer", 1), "private", "internal")
}

test_a_public_model_needs_trust if {
	decision := llm.decision with input as asking(agent("reporter", 0.7), "public", "internal")
	decision.reasons == {"trust 0.7 is less than 0.8, which a public model needs"}
	llm.decision.allow with input as asking(agent("reporter", 0.8), "public", "internal")
	llm.decision.allow with input as asking(agent("reporter", 0.7), "private", "internal")
}

test_an_unknown_sensitivity_is_denied if {
	not llm.decision.allow with input as asking(agent("reporter", 1), "private", "secret")
}

test_an_empty_question_is_denied if not llm.decision.allow with input as {}
