from __future__ import annotations

import io
import json
from datetime import datetime

from reconciler.agentd.log import Log


def test_a_row_is_one_line_of_json_with_the_five_fields_first() -> None:
    stream = io.StringIO()
    Log(instance="demo-0", stream=stream).warning("two\nlines", task="demo", code="x")
    row = json.loads(stream.getvalue())
    assert stream.getvalue().count("\n") == 1
    assert list(row) == ["time", "level", "msg", "instance", "task", "code"]
    assert list(row.values())[1:] == ["warning", "two\nlines", "demo-0", "demo", "x"]
    assert datetime.fromisoformat(row["time"]).utcoffset() is not None


def test_a_closed_stream_is_not_an_error() -> None:
    stream = io.StringIO()
    stream.close()
    Log(instance="demo-0", stream=stream).info("into the void")
