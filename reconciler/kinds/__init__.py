"""The kinds of resource, in the order in which they are applied. A new kind is a folder and one entry here."""

from reconciler.kinds.agent import AGENT
from reconciler.kinds.egress import EGRESS
from reconciler.kinds.kind import Kind
from reconciler.kinds.policy import POLICY
from reconciler.kinds.router import ROUTER
from reconciler.kinds.schema import SCHEMA
from reconciler.kinds.task import TASK

KINDS: tuple[Kind, ...] = (SCHEMA, POLICY, ROUTER, EGRESS, AGENT, TASK)
