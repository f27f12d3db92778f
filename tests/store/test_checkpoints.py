"""Checkpoints in state.db, and which of them stand in a note."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.core.checkpoint import Checkpoint
from reconciler.store.checkpoints import KeptCheckpoint, checkpoints, newest_checkpoint, put_checkpoint
from reconciler.store.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "state.db")
    yield opened
    opened.close()


def checkpoint(seq: int) -> Checkpoint:
    return Checkpoint(fleet="f1", seq=seq, hash=f"{seq:064}", time="2026-01-01", key="k", signature="s")


def test_checkpoints_are_kept_in_order_and_the_newest_is_known(store: Store) -> None:
    assert (checkpoints(store), newest_checkpoint(store)) == ([], None)
    for seq in (9, 3, 12):
        put_checkpoint(store, checkpoint(seq))
    assert [kept.checkpoint.seq for kept in checkpoints(store)] == [3, 9, 12]
    assert newest_checkpoint(store) == KeptCheckpoint(checkpoint=checkpoint(12))


def test_one_that_is_noted_later_takes_its_own_place(store: Store) -> None:
    put_checkpoint(store, checkpoint(3))
    put_checkpoint(store, checkpoint(3), noted="c" * 40)
    assert checkpoints(store) == [KeptCheckpoint(checkpoint=checkpoint(3), noted="c" * 40)]
