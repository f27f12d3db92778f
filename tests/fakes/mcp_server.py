"""A tool server (MCP over stdin and stdout) with one tool, `lookup`, that repeats what it is asked; run as a program."""

import json
import sys
from typing import Any


def main() -> None:
    for line in sys.stdin:
        request = json.loads(line)
        if "id" in request:
            result = answer(request["method"], request.get("params") or {})
            print(json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": result}), flush=True)


def answer(method: str, params: Any) -> dict[str, Any]:
    if method == "initialize":
        about = {"name": "docs", "version": "1"}
        return {"protocolVersion": params["protocolVersion"], "capabilities": {"tools": {}}, "serverInfo": about}
    if method == "tools/list":
        schema = {"type": "object", "properties": {"word": {"type": "string"}}}
        return {"tools": [{"name": "lookup", "description": "Looks a word up.", "inputSchema": schema}]}
    if method == "tools/call":
        return {"content": [{"type": "text", "text": f"looked up {params['arguments']['word']}"}]}
    return {}


if __name__ == "__main__":
    main()
