"""A stand-in for the Claude Code CLI, as far as agentd uses it; run as a program, without the project.

It asks the Messages API at ANTHROPIC_BASE_URL, with the key that its `apiKeyHelper` prints, runs `Bash` where that is
among the allowed tools, and prints the lines of `--output-format=stream-json`. What it was started with goes to the
file that FAKE_CLAUDE_LOG names.
"""

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from typing import Any

LISTS = ("--allowedTools", "--disallowedTools", "--add-dir", "--mcp-config")


def main() -> int:
    options = read_options(sys.argv[1:])
    question = sys.stdin.read()
    if log := os.environ.get("FAKE_CLAUDE_LOG"):
        with open(log, "w") as file:
            json.dump({"argv": sys.argv[1:], "env": dict(os.environ), "stdin": question, "cwd": os.getcwd()}, file)
    say("system", subtype="init", model=options.get("--model", "claude-default"))
    messages: list[Any] = [{"role": "user", "content": question}]
    for turn in range(int(options.get("--max-turns", 100))):
        try:
            answer = ask(options, messages)
        except urllib.error.HTTPError as error:
            said = f"API Error: {error.code} {json.load(error)['error']['message']}"
            say("assistant", error="server_error", message={"content": [{"type": "text", "text": said}]})
            return end(turn, options, result=said, is_error=True, api_error_status=error.code)
        except OSError:
            say("assistant", error="server_error", message={"content": []})
            return end(turn, options, result="API Error: Unable to connect", is_error=True)
        say("assistant", message=answer, parent_tool_use_id=None)
        block = answer["content"][0]
        if block["type"] == "text":
            return end(turn + 1, options, result=block["text"], is_error=False)
        messages += [{"role": "assistant", "content": [block]}, {"role": "user", "content": [use(block, options)]}]
    return end(turn + 1, options, subtype="error_max_turns", is_error=True)


def read_options(words: list[str]) -> dict[str, Any]:
    options: dict[str, Any] = {}
    name = ""
    for word in words:
        if word.startswith("--"):
            name, _, value = word.partition("=")
            options[name] = [] if name in LISTS else value
        else:
            options[name].append(word)
    return options


def ask(options: dict[str, Any], messages: list[Any], may_repeat: bool = True) -> Any:
    helper = json.loads(options["--settings"])["apiKeyHelper"]
    key = subprocess.run(helper, shell=True, capture_output=True, text=True).stdout.strip()
    body = {"model": options.get("--model", "claude-default"), "messages": messages, "max_tokens": 100}
    body["system"] = options.get("--append-system-prompt", "")
    request = urllib.request.Request(
        f"{os.environ['ANTHROPIC_BASE_URL']}/v1/messages?beta=true",
        json.dumps(body).encode(),
        {"Authorization": f"Bearer {key}", "X-Api-Key": key, "Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request) as response:
            return json.load(response)
    except urllib.error.HTTPError as error:
        if error.code != 401 or not may_repeat:
            raise
    return ask(options, messages, may_repeat=False)


def use(block: Any, options: dict[str, Any]) -> dict[str, Any]:
    if block["name"] not in options.get("--allowedTools", ()):
        return {"type": "tool_result", "tool_use_id": block["id"], "content": "denied", "is_error": True}
    done = subprocess.run(block["input"]["command"], shell=True, capture_output=True, text=True)
    return {"type": "tool_result", "tool_use_id": block["id"], "content": done.stdout.strip(), "is_error": False}


def end(turns: int, options: dict[str, Any], subtype: str = "success", **fields: Any) -> int:
    tokens = {"inputTokens": 12 * turns, "outputTokens": 7 * turns, "costUSD": 0.001 * turns}
    models = {options.get("--model", "claude-default"): tokens} if turns else {}
    say("result", subtype=subtype, num_turns=turns, total_cost_usd=0.001 * turns, modelUsage=models, **fields)
    return 1 if fields["is_error"] else 0


def say(kind: str, **fields: object) -> None:
    print(json.dumps({"type": kind, **fields}), flush=True)


if __name__ == "__main__":
    sys.exit(main())
