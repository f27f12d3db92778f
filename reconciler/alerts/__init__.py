"""How notices of alerts leave the host: one courier per sink, and the sinks themselves.

Here belongs what talks to the outside; what is worth telling is decided in `core/alert.py` and `loop/alerts.py`.
"""
