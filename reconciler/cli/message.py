"""`message`: send one as operator, follow the message log, export it."""

import csv
import json
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from reconciler.cli.caller import caller_options, with_caller
from reconciler.cli.options import data_option, output_option, source_option
from reconciler.cli.output import print_json, program
from reconciler.core.caller import Caller

if TYPE_CHECKING:
    from reconciler.router.history import Selection

FOLLOW_S = 0.2
LINE = "{time:<8} {sender:<17} {recipient:<21} {type:<20} {verdict}"
VERDICT_WIDTH = 30


@click.group(name="message")
def message_command() -> None:
    """Send a message, follow the message log, export it."""


# --- send -------------------------------------------------------------------------------------------------------------


@message_command.command(name="send")
@click.argument("type_", metavar="TYPE")
@click.argument("payload", default="null")
@click.option("--to", metavar="AGENT[/INSTANCE]", help="To one instance of an agent.")
@click.option("--topic", metavar="TOPIC", help="To whoever subscribes to a topic.")
@click.option("--all", "everybody", is_flag=True, help="Broadcast to every instance of every agent.")
@click.option("--role", "roles", multiple=True, metavar="ROLE", help="Broadcast to agents of one of these roles.")
@click.option("--label", "labels", multiple=True, metavar="NAME=VALUE", help="… that have all of these labels.")
@click.option("--capability", "capabilities", multiple=True, metavar="NAME", help="… that have all of these.")
@click.option(
    "--sensitivity",
    type=click.Choice(["public", "internal", "confidential", "restricted"]),
    default="internal",
    show_default=True,
)
@caller_options
@source_option
@data_option
@output_option
def send(
    type_: str,
    payload: str,
    to: str | None,
    topic: str | None,
    everybody: bool,
    roles: tuple[str, ...],
    labels: tuple[str, ...],
    capabilities: tuple[str, ...],
    sensitivity: str,
    caller: Caller,
    source: str,
    data: str | None,
    output: str,
) -> int:
    """Send an event or a broadcast of TYPE as operator.

    PAYLOAD is JSON, @FILE, or '-' for standard input.
    """
    from reconciler.api.client import call

    is_broadcast = everybody or roles or labels or capabilities
    audience = {"roles": roles, "labels": dict(map(_label, labels)), "capabilities": capabilities}
    targets = {"to": to, "topic": topic, "audience": audience if is_broadcast else None}
    order = {
        "type": type_,
        "payload": _read_payload(payload),
        "sensitivity": sensitivity,
        **{name: value for name, value in targets.items() if value is not None},
    }
    state, run = _places(source, data)
    answer = call(run / "api.sock", "POST", with_caller("/api/v1/messages", caller), json.dumps(order).encode())
    delivered = _delivered(state, answer["id"])
    if output == "json":
        print_json({**answer, "delivered": delivered})
        return 0
    click.echo(f"message {answer['id']} is in {len(delivered)} mailboxes: {', '.join(delivered) or 'nobody is there'}")
    return 0


def _read_payload(text: str) -> Any:
    from reconciler.errors import UsageError

    try:
        content = sys.stdin.read() if text == "-" else Path(text[1:]).read_text("utf-8") if text[:1] == "@" else text
        return json.loads(content)
    except OSError as exc:
        raise UsageError(f"the payload {text[1:]} cannot be read: {exc.strerror}") from exc
    except ValueError as exc:
        raise UsageError(f"the payload is not JSON: {exc}; text needs quotes, such as '\"hello\"'") from exc


def _label(text: str) -> tuple[str, str]:
    from reconciler.errors import UsageError

    name, is_pair, value = text.partition("=")
    if not is_pair or not name:
        raise UsageError(f"--label {text!r} is not of the form NAME=VALUE")
    return name, value


def _delivered(state: Path, id_: str) -> list[str]:
    """To whom it went, by its row, which is on disk before the router answers."""
    from reconciler.router.history import Selection, read_newest

    rows = read_newest(state / "traffic.db", Selection(id=id_), 1)
    return [name for row in rows for name in (row["delivered"] or "").split()]


# --- tail and export --------------------------------------------------------------------------------------------------


def _selection_options(command: Any) -> Any:
    for option in reversed(
        [
            click.option("--agent", metavar="NAME", help="From or to this agent or instance."),
            click.option("--type", metavar="TYPE", help="Of this type; '*' stands for any text."),
            click.option("--verdict", type=click.Choice(["allow", "deny", "expired"])),
            click.option("--code", metavar="CODE", help="Denied with this code, such as rate_limited."),
            click.option("--trace", metavar="ID", help="Of this trace: 32 hex digits."),
            click.option("--since", metavar="WHEN", help="From then on: 10m, 2h, or 2026-11-21T08:00:00Z."),
        ]
    ):
        command = option(command)
    return command


@message_command.command(name="tail")
@_selection_options
@click.option("-n", "--count", default=20, show_default=True, help="How many of the newest.")
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes, until Ctrl-C.")
@source_option
@data_option
@output_option
def tail(count: int, follow: bool, source: str, data: str | None, output: str, **filters: str | None) -> int:
    """Show the newest messages of the log; with -o json one JSON object per line."""
    from reconciler.router.history import newest_seq, read_newest

    selection, log = _select(**filters), _log(source, data)
    if output == "table":
        click.echo(LINE.format(time="TIME", sender="FROM", recipient="TO", type="TYPE", verdict="VERDICT"))
    upto = newest_seq(log)
    for row in read_newest(log, selection, count):
        _print_row(row, output)
        upto = max(upto, row["seq"])
    for row in _follow(log, selection, upto) if follow else ():
        _print_row(row, output)
    return 0


@message_command.command(name="export")
@_selection_options
@click.option("--until", metavar="WHEN", help="Up to then, not including it.")
@click.option("--format", "format_", type=click.Choice(["jsonl", "csv"]), default="jsonl", show_default=True)
@source_option
@data_option
def export(format_: str, source: str, data: str | None, **filters: str | None) -> int:
    """Write messages to standard output, oldest first, with payloads as the log keeps them."""
    from reconciler.router.history import read_all

    rows = read_all(_log(source, data), _select(**filters))
    if format_ == "jsonl":
        for row in rows:
            _print_row(row, "json")
        return 0
    writer: Any = None
    for row in rows:
        if writer is None:
            writer = csv.DictWriter(sys.stdout, fieldnames=list(row), lineterminator="\n")
            writer.writeheader()
        writer.writerow({**_show_json(row), "payload": row["payload"]})
    return 0


def _select(*, since: str | None, until: str | None = None, **filters: str | None) -> "Selection":
    from reconciler.router.history import Selection

    return Selection(since=_read_when(since), until=_read_when(until), **filters)


def _read_when(text: str | None) -> float | None:
    """A duration is so long ago; a timestamp is what it says. In epoch seconds."""
    from reconciler.core.quantity import parse_duration_s
    from reconciler.core.timestamp import read_timestamp
    from reconciler.errors import UsageError

    if text is None:
        return None
    at = read_timestamp(text)
    if at is not None:
        return at
    try:
        return time.time() - parse_duration_s(text)
    except ValueError as exc:
        raise UsageError(f"{text!r} is no time; write how long ago, such as 10m, or 2026-11-21T08:00:00Z") from exc


def _follow(log: Path, selection: "Selection", last: int) -> Iterator[dict[str, Any]]:
    """What comes after a seq, for ever."""
    from reconciler.router.history import newest_seq, read_page

    while True:
        sys.stdout.flush()
        upto = newest_seq(log)
        for row in read_page(log, selection, last):
            yield row
            upto = row["seq"]
        last = max(last, upto)
        time.sleep(FOLLOW_S)


def _print_row(row: Mapping[str, Any], output: str) -> None:
    click.echo(json.dumps(_show_json(row), ensure_ascii=False) if output == "json" else _show_line(row))


def _show_line(row: Mapping[str, Any]) -> str:
    """Within 100 columns; what does not print is shown as a dot."""
    verdict = row["verdict"] if row["verdict"] == "allow" else f"{row['code']}: {row['reason'] or ''}".rstrip(": ")
    line = LINE.format(
        time=time.strftime("%H:%M:%S", time.localtime(row["time"])),
        sender=_cut(row["instance"], 17),
        recipient=_cut(row["recipient"] or "-", 21),
        type=_cut(row["type"] or "-", 20),
        verdict=_cut(f"{row['count']} times {verdict}" if row["count"] > 1 else verdict, VERDICT_WIDTH),
    )
    return "".join(c if c.isprintable() else "·" for c in line)


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def _show_json(row: Mapping[str, Any]) -> dict[str, Any]:
    """The columns, with the payload as JSON, and times as people and machines read them."""
    from reconciler.core.timestamp import show_timestamp

    times = {
        name: at if at is None else show_timestamp(at) for name in ("time", "decided_at") for at in [row.get(name)]
    }
    payload = row["payload"]
    return {**row, **times, "payload": None if payload is None else json.loads(payload)}


# --- places -----------------------------------------------------------------------------------------------------------


def _places(source: str, data: str | None) -> tuple[Path, Path]:
    """Data and run-time directory. Raises UsageError where there is no fleet."""
    from reconciler.errors import UsageError
    from reconciler.home import data_folder, open_home

    home = open_home(data_folder(source, data), create=False)
    if home is None:
        where = data_folder(source, data)
        raise UsageError(f"there is no fleet in {where}; start one with `{program()} run`, or name its --data")
    return home.state, home.run


def _log(source: str, data: str | None) -> Path:
    from reconciler.errors import UsageError

    log = _places(source, data)[0] / "traffic.db"
    if not log.exists():
        raise UsageError(f"there is no message log {log} yet; the router makes it when the hub first runs")
    return log
