"""The runtime in memory of `reconciler/runtime/fake.py`, with a fuse around each of its effects."""

import copy

from reconciler.ports import ContainerSpec, Limits
from reconciler.runtime.fake import FakeRuntime
from tests.fakes.fuse import Fuse


class FusedRuntime(FakeRuntime):
    """`Runtime` without an engine. `fuse` is that of the hub that uses it now."""

    def __init__(self, fleet: str, fuse: Fuse | None = None) -> None:
        super().__init__(fleet)
        self.fuse = fuse or Fuse()

    def copy(self) -> "FusedRuntime":
        """Another runtime in the same state; what is done to one does not show in the other."""
        other = FusedRuntime("")
        kept = {k: v for k, v in vars(self).items() if k not in ("_changed", "_now_ns", "fuse")}
        vars(other).update(copy.deepcopy(kept))
        return other

    def create(self, spec: ContainerSpec) -> str:
        with self.fuse.around("runtime.create"):
            return super().create(spec)

    def start(self, container_id: str) -> None:
        with self.fuse.around("runtime.start"):
            super().start(container_id)

    def update(self, container_id: str, limits: Limits) -> None:
        with self.fuse.around("runtime.update"):
            super().update(container_id, limits)

    def stop(self, container_id: str, grace_s: float) -> None:
        with self.fuse.around("runtime.stop"):
            super().stop(container_id, grace_s)

    def remove(self, container_id: str) -> None:
        with self.fuse.around("runtime.remove"):
            super().remove(container_id)
