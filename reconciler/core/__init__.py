"""Words shared by all kinds. Pure: no I/O, no clock, no randomness, no logging.

Here belongs what more than one kind or both pipelines speak of. Not here: anything only one kind needs (its own
folder), and anything that touches the world (`ports.py` and the adapters behind it).
"""
