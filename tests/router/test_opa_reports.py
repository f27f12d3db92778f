"""OPA's decision log and status: kept whole, bounded before and after unpacking, and never in two halves."""

import asyncio
import gzip
import json
from pathlib import Path

import pytest

from reconciler.router.opa_reports import MAX_BYTES, BadReportError, DecisionFile, read_bundle_fault, unpack


def append(file: DecisionFile, rows: list[object], *, is_packed: bool = True) -> int:
    body = json.dumps(rows, indent=1).encode()
    return asyncio.run(file.append(gzip.compress(body) if is_packed else body, is_packed=is_packed))


def lines(path: Path) -> list[object]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("is_packed", [True, False])
def test_each_decision_becomes_one_line(tmp_path: Path, is_packed: bool) -> None:
    file = DecisionFile(tmp_path / "d.jsonl")
    rows: list[object] = [{"path": "a", "result": {"x": "line\nbreak é"}}, {"path": "b"}]
    assert append(file, rows, is_packed=is_packed) == 2
    assert append(file, [{"path": "c"}], is_packed=is_packed) == 1
    assert lines(file.path) == [*rows, {"path": "c"}]
    assert file.path.stat().st_mode & 0o777 == 0o600


def test_a_full_file_is_put_aside_and_only_one_is_kept(tmp_path: Path) -> None:
    file = DecisionFile(tmp_path / "d.jsonl", max_bytes=150)
    for n in range(10):
        append(file, [{"n": n, "x": "x" * 30}])
    assert [row["n"] for row in lines(file.path)] == [8, 9]  # type: ignore[index]
    assert [row["n"] for row in lines(tmp_path / "d.jsonl.1")] == [6, 7]  # type: ignore[index]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["d.jsonl", "d.jsonl.1"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"no gzip", "is not gzip"),
        (gzip.compress(b"[]")[:-4], "is cut off"),
        (gzip.compress(b" " * (MAX_BYTES + 1)), f"more than {MAX_BYTES} bytes"),
        (gzip.compress(b"{}"), "no JSON list"),
        (gzip.compress(b"[{}"), "no JSON list"),
        (gzip.compress(b"[" * 100_000), "no JSON list"),
        (gzip.compress(b""), "no JSON list"),
    ],
)
def test_what_is_no_decision_log_is_refused_and_nothing_is_written(tmp_path: Path, body: bytes, said: str) -> None:
    file = DecisionFile(tmp_path / "d.jsonl")
    with pytest.raises(BadReportError, match=said):
        asyncio.run(file.append(body, is_packed=True))
    assert not file.path.exists()


def test_a_body_is_not_unpacked_beyond_its_bound() -> None:
    with pytest.raises(BadReportError, match="more than"):
        unpack(gzip.compress(b"\0" * (MAX_BYTES * 4)))
    assert unpack(gzip.compress(b"x" * MAX_BYTES)) == b"x" * MAX_BYTES


def status(**bundle: object) -> bytes:
    return json.dumps({"labels": {}, "bundles": {"hub": {"name": "hub", **bundle}}}).encode()


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        (status(active_revision="r1"), ""),
        (b'{"labels":{}}', ""),
        (b'{"bundles":{"other":{"code":"bundle_error","message":"x"}}}', ""),
        (status(code="bundle_error", message="server replied with Service Unavailable", http_code=503), ""),
        (status(code="bundle_error", message="server replied with Unauthorized", http_code="401"), ""),
        (status(code="bundle_error", message="request failed: dial tcp"), ""),
        (status(code="bundle_error", message="verification failed"), "verification failed"),
        (status(code="bundle_error"), "bundle_error"),
        (
            status(
                code="bundle_error",
                message="bundle activation failed",
                errors=[
                    {"message": "match error", "location": {"file": "a.rego", "row": 3, "col": 7}},
                    {"message": "another"},
                    "odd",
                    "not shown",
                ],
            ),
            "bundle activation failed: a.rego:3:7: match error; another; odd",
        ),
        (status(code="bundle_error", message="x" * 2000), "x" * 1000),
    ],
)
def test_a_status_says_whether_the_bundle_is_taken(body: bytes, fault: str) -> None:
    assert read_bundle_fault(body, "hub") == fault


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"bundles":7}', b'{"bundles":{"hub":{"code":7}}}'])
def test_what_is_no_status_is_refused(body: bytes) -> None:
    with pytest.raises(BadReportError, match="no status"):
        read_bundle_fault(body, "hub")
