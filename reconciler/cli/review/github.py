"""A review as annotations of a GitHub workflow: commands that the runner reads from the log.

GitHub shows the first ten errors, warnings and notices of a step; the most important ones come first.
"""

from collections.abc import Iterator

from reconciler.cli.review.words import REMOVED, headline, summary
from reconciler.loop.review import Review


def write_annotations(review: Review) -> str:
    """One command per line; the last one is what it all comes to."""
    total = command("notice", summary(review), title=f"Plan of {headline(review)}")
    return "".join(f"{line}\n" for line in (*_commands(review), total))


def _commands(review: Review) -> Iterator[str]:
    for problem in review.plan.problems:
        place = {"line": str(problem.line), "col": str(problem.column)} if problem.line else {}
        yield command("error", problem.message, file=problem.file, **place)
    for refusal in review.plan.refused:
        how = f"; if this is meant: reconciler apply --confirm {refusal.confirm}" if refusal.confirm else ""
        yield command("error", f"{refusal.reason}{how}", title=f"refused by {refusal.guard}")
    for note in review.notes:
        yield command("warning", note, title="Plan")
    for move in review.moves:
        file, line = review.place(move.kind, move.after)
        text = f"{move.kind}/{move.before} becomes {move.kind}/{move.after}: {move.reason}"
        yield command("notice", text, file=file, line=str(line))
    for change in sorted(review.lines, key=lambda one: str(one.action) not in REMOVED and not one.is_disruptive):
        level = "warning" if str(change.action) in REMOVED or change.is_disruptive else "notice"
        file, line = review.place(change.kind, change.name)
        yield command(level, change.reason, file=file, line=str(line), title=f"{change.action} {change.subject}")


def command(name: str, message: str, **properties: str) -> str:
    """`::error file=a,line=1::text`, with what the runner would take for its own syntax written in percent."""
    shown = ",".join(f"{key}={_property(value)}" for key, value in properties.items())
    return f"::{name}{' ' if shown else ''}{shown}::{_data(message)}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
