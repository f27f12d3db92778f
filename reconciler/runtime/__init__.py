"""Where containers run: one adapter per runtime behind `ports.Runtime`.

Here belongs what talks to an engine, and what a container looks like to it. What a container is
*for* (agents, tokens, tasks) doesn't: that is `kinds/`. `docker.py` and `process.py` are the real
ones, `fake.py` lives in memory.
"""
