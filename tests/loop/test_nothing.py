"""Planning without state and engine: everything in git is something to create."""

from reconciler.core.change import Action
from reconciler.loop.nothing import plan_against_nothing
from tests.fakes.desired import desired_of
from tests.fakes.texts import agent_text, task_text


def test_everything_is_created_in_apply_order() -> None:
    desired = desired_of(
        {
            "agents.d/a.yaml": agent_text(replicas=2),
            "tasks.d/t.yaml": task_text(),
            "schemas/messages/a.b.schema.json": "{}",
            "policies/task.rego": 'package hub.task\n\nimport rego.v1\n\ndecision := {"allow": true}\n',
        }
    )
    plan = plan_against_nothing(desired)
    assert plan.compared_with == "nothing"
    assert [(c.unit, c.action) for c in plan.changes] == [
        ("schema/a.b", Action.CREATE),
        ("policy/policies", Action.CREATE),
        ("router/router", Action.CREATE),
        ("agent/writer-0", Action.CREATE),
        ("agent/writer-1", Action.CREATE),
        ("task/changelog", Action.CREATE),
    ]
