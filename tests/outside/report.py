"""The outside checker of a report: does the page explain each container that the engine made? Nothing of the reconciler."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html.parser import HTMLParser

from tests.outside.births import Birth

TITLE = "Every container that ran"


@dataclass(frozen=True)
class Line:
    """One row of the table of containers, as a person reads it.

    `id` is empty where the hub died before it knew, and `ended` where it runs.
    """

    instance: str
    id: str
    made: str
    revision: str
    because: str
    ended: str


def check_report(page: str, births: Sequence[Birth]) -> list[str]:
    """What the page leaves unexplained: each container needs a line of its own, with revision and reason."""
    lines = read_containers(page)
    by_id = {line.id: line for line in lines if line.id}
    nameless = [line for line in lines if not line.id]
    out = [f"container {id_} is in the report, and the engine never made it" for id_ in _invented(by_id, births)]
    for birth in births:
        line = by_id.get(birth.id[:12]) or next((n for n in nameless if _may_be(n, birth)), None)
        if line in nameless:
            nameless.remove(line)
        if line is None or line.instance != birth.instance:
            when = datetime.fromtimestamp(birth.at, UTC).isoformat()
            out.append(f"container {birth.id[:12]} of {birth.instance}, made {when}, is not in the report")
        elif not (line.revision and line.because):
            out.append(f"container {birth.id[:12]} of {birth.instance} is in the report without revision or reason")
    return out


def _invented(by_id: Mapping[str, Line], births: Sequence[Birth]) -> list[str]:
    return sorted(by_id.keys() - {birth.id[:12] for birth in births})


def _may_be(line: Line, birth: Birth) -> bool:
    """Whether it is of that instance, made in that second or before, and not ended before it."""
    is_open = not line.ended or birth.at < _second(line.ended) + 1
    return line.instance == birth.instance and _second(line.made) <= birth.at and is_open


def read_containers(page: str) -> list[Line]:
    """The table below the title."""
    table = _Table()
    table.feed(page.split(TITLE, 1)[1].split("</table>", 1)[0])
    cells = [row[:6] for row in table.rows if row]
    return [Line(*row[:5], ended="" if row[5] == "runs" else row[5]) for row in cells]


class _Table(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self._is_cell = False

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag == "tr":
            self.rows.append([])
        if tag == "td":
            self.rows[-1].append("")
            self._is_cell = True

    def handle_endtag(self, tag: str) -> None:
        if tag == "td":
            self._is_cell = False

    def handle_data(self, data: str) -> None:
        if self._is_cell:
            self.rows[-1][-1] += data


def _second(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()
