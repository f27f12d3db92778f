"""A hub over a fake engine with the real router, policies, record and operator plane.

`python -m bench.hub_process DIR`

DIR holds the repository in `repository`; data goes to `data`. Ends on SIGTERM, and takes the router with it. On
SIGUSR1 it writes into `DIR/engine-bytes` how much of its memory is the fake engine's.
"""

import gc
import signal
import sys
import types
from pathlib import Path

from reconciler.api.app import build_app
from reconciler.api.operations import HubOperations
from reconciler.api.server import ApiServer
from reconciler.bootstrap import build_policy, policy_order
from reconciler.clock import SystemClock
from reconciler.egress.client import EgressLink
from reconciler.home import open_home, prepare_run
from reconciler.kinds import KINDS
from reconciler.kinds.kind import World
from reconciler.loop.inspections import Inspections
from reconciler.loop.run import Loop
from reconciler.loop.serve import Hub
from reconciler.router.client import RouterLink
from reconciler.runtime.fake import FakeRuntime
from reconciler.settings import HubSpec, OperatorSpec
from reconciler.source.repository import LocalRepository
from reconciler.store.store import Store


def main() -> None:
    folder = Path(sys.argv[1])
    home = open_home(folder / "data", create=True)
    assert home is not None
    prepare_run(home)
    runtime = FakeRuntime(home.fleet)
    runtime.add_image("agents/base:1", "sha256:base")
    operator = OperatorSpec()
    policy = build_policy(HubSpec(), operator)
    inspections = Inspections(runtime)
    router = RouterLink(home.fleet, home.run, home.state)
    world = World(
        fleet=home.fleet,
        seal_key=home.seal_key,
        run=home.run,
        state=home.state,
        store=Store(home.state / "state.db"),
        runtime=runtime,
        router=router,
        egress=EgressLink(home.fleet, home.run, home.state),
        policy=policy,
        source=LocalRepository(str(folder / "repository"), "main"),
        clock=SystemClock(),
        inspections=inspections,
        operator=operator,
    )
    loop = Loop(world, KINDS, on_desired=lambda d: policy.configure(policy_order(d.hub, operator)))
    hub = Hub(loop, world, KINDS, inspections)
    api = ApiServer(build_app(HubOperations(hub, loop, world, lambda _drain: hub.stop())), home.run)
    api.start()
    signal.signal(signal.SIGTERM, lambda *_: hub.stop())
    signal.signal(signal.SIGUSR1, lambda *_: (folder / "engine-bytes").write_text(str(_size_of(runtime))))
    hub.serve()
    api.stop()
    loop.close()
    policy.close()
    router.stop()


def _size_of(runtime: FakeRuntime) -> int:
    """Bytes of the containers and events that it keeps; texts and numbers are left out, which others may share."""
    size, known = 0, set[int]()
    waiting: list[object] = [runtime._containers, runtime._events]
    while waiting:
        thing = waiting.pop()
        if id(thing) not in known and not isinstance(thing, str | int | float | type | types.ModuleType):
            known.add(id(thing))
            waiting.extend(gc.get_referents(thing))
            size += sys.getsizeof(thing)
    return size


if __name__ == "__main__":
    main()
