"""The router: every message of the fleet passes through it, one step after the other, in a process of its own.

message -> identity -> rate -> schema -> policy -> log -> deliver

Here belongs what happens to a message, the process it happens in (`process.py`), its two sockets (`asgi.py` for agents,
`control.py` for the hub), and the hub's side of the control socket (`client.py`, `supervise.py`, `inbox.py`). Not here:
anything that knows Docker, git or state.db. The process must stay small and start fast, so nothing that it imports may
import SQLModel, SQLAlchemy, docker, pydantic or GitPython; a test looks.
"""
