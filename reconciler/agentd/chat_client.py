"""Asks a model one question: `chat_client URL MODEL`, the question on stdin, token in HUB_TOKEN_FILE.

Both sorts of chat are read, whole and as a stream: OpenAI's (server-sent events) and Ollama's (a
JSON object per line). On stdout is one JSON object per line: `{"text": …}` as the answer comes,
and last `{"usage": …}`, with `error` where it went wrong, and `status` where the other side said
so. What may pass by itself is tried again while nothing of an answer has come.

Exit status: 0 answered, 1 not, 64 usage.
"""

from __future__ import annotations

import http.client
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

from reconciler.agentd.dial import UnixDial
from reconciler.agentd.hub import Backoff, Hub, HubGoneError
from reconciler.agentd.outcome import reason_of_status

_TRIES = 4
_MAX_WAIT_S = 20.0
_MAX_ERROR_BYTES = 64 * 1024
_MAX_LINE_BYTES = 16 * 2**20


class ChatError(Exception):
    """There is no answer, or only a part of one. `status` is HTTP's, where there was one."""

    def __init__(self, text: str, status: int | None = None, retry_after_s: float = 0.0) -> None:
        super().__init__(text)
        self.status = status
        self.retry_after_s = retry_after_s

    @property
    def may_pass(self) -> bool:
        return self.status is None or reason_of_status(self.status) == "model_unavailable"


class Chat:
    """One question and what came of it. `used` is filled as the other side says what it used."""

    def __init__(self, url: str, model: str, question: str) -> None:
        self._url = urlsplit(url)
        self._body = _write_body(model, question)
        self._hub = Hub(UnixDial(""), os.environ["HUB_TOKEN_FILE"])
        self.used: dict[str, object] = {"model": model}
        self.has_begun = False

    def ask(self) -> Iterator[str]:
        """The answer, piece by piece; empty ones where the model only thinks. Raises ChatError."""
        connection = http.client.HTTPConnection(self._url.hostname or "", self._url.port)
        try:
            headers = {"Authorization": f"Bearer {self._hub.read_token()}", "Content-Type": "application/json"}
            connection.request("POST", self._url.path, self._body, headers)
            response = connection.getresponse()
            if response.status != 200:
                raise _read_error(response)
            for message in _read_messages(response):
                yield from self._take(message)
        except (OSError, http.client.HTTPException, HubGoneError) as error:
            raise ChatError(f"the model does not answer: {error or type(error).__name__}") from error
        finally:
            connection.close()

    def _take(self, message: Mapping[str, object]) -> Iterator[str]:
        if message.get("error"):
            raise ChatError(f"the model broke off: {_explain(message)}", 500)
        self._count(message)
        text = _read_text(message)
        self.has_begun = self.has_begun or bool(text)
        yield text

    def _count(self, message: Mapping[str, object]) -> None:
        usage = message.get("usage")
        counts: Mapping[str, object] = usage if isinstance(usage, dict) else message
        for name, keys in (
            ("input_tokens", ("prompt_tokens", "prompt_eval_count")),
            ("output_tokens", ("completion_tokens", "eval_count")),
        ):
            found = next((counts[k] for k in keys if isinstance(counts.get(k), int)), None)
            if found is not None:
                self.used[name] = found


def main(arguments: list[str]) -> int:
    if len(arguments) != 2:
        sys.stderr.write("usage: chat_client URL MODEL\n")
        return 64
    chat = Chat(arguments[0], arguments[1], sys.stdin.buffer.read().decode("utf-8", "replace"))
    end: dict[str, object] = {}
    try:
        _answer(chat)
    except ChatError as error:
        end = {"error": str(error), **({} if error.status is None else {"status": error.status})}
    _print({**end, "usage": chat.used})
    return 1 if end else 0


def _answer(chat: Chat) -> None:
    """Print the answer as it comes. Raises ChatError."""
    pauses = Backoff(base_s=0.5, cap_s=5.0)
    for left in reversed(range(_TRIES)):
        try:
            for text in chat.ask():
                _print({"text": text})
        except ChatError as error:
            if not left or chat.has_begun or not error.may_pass:
                raise
            sys.stderr.write(f"progress: asking again, {error}\n")
            sys.stderr.flush()
            time.sleep(min(max(pauses.next_s(), error.retry_after_s), _MAX_WAIT_S))
        else:
            return


def _write_body(model: str, question: str) -> bytes:
    """The same for both; Ollama passes over what only OpenAI knows."""
    messages = [{"role": "user", "content": question}]
    options = {"include_usage": True}
    return json.dumps({"model": model, "messages": messages, "stream": True, "stream_options": options}).encode()


def _read_messages(response: http.client.HTTPResponse) -> Iterator[Mapping[str, object]]:
    """Each JSON object of the answer. Raises ChatError where it stops before its end."""
    is_stream = "stream" in response.headers.get_content_type() or "ndjson" in response.headers.get_content_type()
    lines = iter(lambda: response.readline(_MAX_LINE_BYTES), b"") if is_stream else [response.read(_MAX_LINE_BYTES)]
    has_ended = not is_stream
    for line in lines:
        text = line.strip()
        text = text[5:].strip() if text.startswith(b"data:") else text
        if text == b"[DONE]":
            return
        if text.startswith(b"{"):
            message = _parse(text)
            has_ended = has_ended or message.get("done") is True
            yield message
    if not has_ended:
        raise ChatError("the answer broke off before its end")


def _parse(text: bytes) -> Mapping[str, object]:
    try:
        message = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ChatError("the answer is not JSON", 502) from error
    return message if isinstance(message, dict) else {}


def _read_text(message: Mapping[str, object]) -> str:
    """OpenAI: choices[0].delta.content, or .message.content; Ollama: message.content."""
    choices = message.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else message
    inner = (first.get("delta") or first.get("message")) if isinstance(first, dict) else None
    content = inner.get("content") if isinstance(inner, dict) else None
    return content if isinstance(content, str) else ""


def _read_error(response: http.client.HTTPResponse) -> ChatError:
    content = response.read(_MAX_ERROR_BYTES)
    try:
        said = _explain(json.loads(content))
    except (ValueError, RecursionError):
        said = ""
    named = response.headers.get("Retry-After", "")
    retry_after_s = float(named) if named.isdigit() else 0.0
    return ChatError(f"{response.status} {said or response.reason}".strip(), response.status, retry_after_s)


def _explain(body: object) -> str:
    """OpenAI: error.message; Ollama: error."""
    error = body.get("error") if isinstance(body, dict) else None
    said = error.get("message") if isinstance(error, dict) else error
    return said[:1000] if isinstance(said, str) else ""


def _print(message: Mapping[str, object]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
