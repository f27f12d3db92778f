"""state.db: its tables, its one writer, and the questions asked of it.

Here belongs all SQL of the control process. Values go in and come out as frozen records; table rows never leave.
The router's message log is not here (`router/log.py`).
"""
