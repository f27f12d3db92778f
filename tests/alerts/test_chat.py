"""Notices by Apprise: to local servers, from URLs in a file, by a child that is not given anything else."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.alerts.chat import ChatSink
from reconciler.alerts.sink import Sent
from reconciler.settings_notify import Apprise
from tests.alerts.receiver import Receiver, receiving

SECRET = "chatsecret0123456789012345"
NOTICE = {
    "id": "0a1b2c",
    "fleet": "33c38599",
    "status": "raised",
    "type": "Quarantined",
    "subject": "agent/writer-0",
    "reason": "Planned",
    "message": "writer-0 is in quarantine: für immer",
    "since": "2026-11-21T12:00:00+00:00",
    "time": "2026-11-21T12:00:10+00:00",
}
DOCUMENT = json.dumps(NOTICE).encode()
TITLE = "[reconciler 33c38599] raised: Quarantined of agent/writer-0"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as made:
        yield made


def sink_of(folder: Path, *urls: str, timeout_s: float = 60.0) -> ChatSink:
    (folder / "urls").write_text("# services\n\n" + "".join(f"{url}\n" for url in urls))
    return ChatSink(Apprise.model_validate({"urlsFile": str(folder / "urls")}), timeout_s)


def place(receiver: Receiver) -> str:
    return receiver.url.removeprefix("http://")


def test_a_notice_goes_to_each_service_of_the_file(tmp_path: Path, receiver: Receiver) -> None:
    receiver.answer = lambda _n: 200
    sink = sink_of(tmp_path, f"json://{place(receiver)}/hook", f"mmost://{place(receiver)}/{SECRET}")
    assert sink.send(DOCUMENT) == Sent()
    said, chat = receiver.posts
    assert (said.path, chat.path) == ("/hook", f"/hooks/{SECRET}")
    assert (said.notice["title"], said.notice["type"]) == (TITLE, "failure")
    assert said.notice["message"].startswith("writer-0 is in quarantine: für immer\n\nfleet: 33c38599\n")
    assert "writer-0 is in quarantine: für immer" in chat.notice["text"]


def test_a_service_that_refuses_is_a_fault_that_does_not_show_its_url(tmp_path: Path, receiver: Receiver) -> None:
    receiver.answer = lambda _n: 500
    sink = sink_of(tmp_path, f"mmost://{place(receiver)}/{SECRET}")
    assert sink.send(DOCUMENT) == Sent(fault="a service did not take it")


def test_the_file_is_read_each_time(tmp_path: Path, receiver: Receiver) -> None:
    receiver.answer = lambda _n: 200
    sink = sink_of(tmp_path)
    wrong = Sent(fault="its urlsFile has no URL, or one that Apprise does not know")
    assert sink.send(DOCUMENT) == wrong
    (tmp_path / "urls").write_text(f"nosuch://{SECRET}")
    assert sink.send(DOCUMENT) == wrong
    (tmp_path / "urls").write_bytes(b"\xff\xfe")
    assert sink.send(DOCUMENT) == Sent(fault="its urlsFile cannot be read")
    (tmp_path / "urls").unlink()
    assert sink.send(DOCUMENT) == Sent(fault="its urlsFile cannot be read")
    (tmp_path / "urls").write_text(f"json://{place(receiver)}/")
    assert sink.send(DOCUMENT) == Sent()


def test_a_child_that_takes_too_long_is_ended(tmp_path: Path, receiver: Receiver) -> None:
    assert sink_of(tmp_path, f"json://{place(receiver)}/", timeout_s=0.01).send(DOCUMENT) == Sent(
        fault="no answer within 0.01s"
    )


def test_the_sink_does_not_import_apprise_into_the_hub() -> None:
    script = "import sys, reconciler.alerts.chat; sys.exit('apprise' in sys.modules)"
    assert subprocess.run([sys.executable, "-P", "-c", script], check=False).returncode == 0


def test_without_the_package_the_child_says_so() -> None:
    child = Path(sys.modules[ChatSink.__module__].__file__ or "").with_name("chat_child.py")
    hidden = f"import sys, runpy; sys.modules['apprise'] = None; runpy.run_path({str(child)!r}, run_name='__main__')"
    run = subprocess.run([sys.executable, "-P", "-c", hidden], input=b"{}", capture_output=True, check=False)
    assert (run.returncode, run.stdout, run.stderr) == (11, b"", b"")
