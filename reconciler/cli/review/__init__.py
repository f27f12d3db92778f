"""Reviews as people and their tools read them: one module per format, each from a review to text. Pure.

Here belongs how a review looks. Not here: what it says (`loop/review.py`), and where it comes from (`reviewing.py`).
Manifests and policies of strangers are quoted in what other programs interpret, so each format escapes in its own way.
"""

import json
from typing import TYPE_CHECKING

from reconciler.errors import UsageError

if TYPE_CHECKING:
    from reconciler.loop.review import Review

FORMATS = ("json", "markdown", "github", "sarif")
SUFFIXES = {".md": "markdown", ".json": "json", ".sarif": "sarif", ".txt": "text"}


def format_of(file: str) -> str:
    """The format that a file's name asks for. Raises UsageError."""
    found = next((name for suffix, name in SUFFIXES.items() if file.endswith(suffix)), None)
    if found is None:
        raise UsageError(f"{file} says no format; its name must end in one of {' '.join(SUFFIXES)}")
    return found


def render(review: "Review", output: str, unsettled: str = "", *, everything: bool = False) -> str:
    """The whole text, ending in a newline. `unsettled` is what keeps a hub from taking the revision now."""
    match output:
        case "json":
            value = {**review.to_json(everything=everything), "unsettled": unsettled}
            return json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n"
        case "markdown":
            from reconciler.cli.review.markdown import write_markdown

            return write_markdown(review)
        case "github":
            from reconciler.cli.review.github import write_annotations

            return write_annotations(review)
        case "sarif":
            from reconciler.cli.review.sarif import write_sarif

            return write_sarif(review)
        case _:
            from reconciler.cli.review.text import write_text

            return write_text(review, everything=everything)
