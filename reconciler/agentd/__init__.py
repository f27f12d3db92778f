"""The daemon inside an agent container: polls the router, runs the executor, reports.

Standard library only and Python >= 3.9, so that any image can carry it; it imports nothing else of
the project but its version number. Started as `python3 -m reconciler.agentd`; configured by the
environment (see `config.py`). Here belongs what must happen on the agent's side of the socket; what
a task means is the hub's business.
"""
