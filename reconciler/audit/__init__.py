"""Proof and account of what the hub did: checkpoints and notes are written, the log is verified, shown and reported.

What the rows say, and how they chain, is in `store/audit.py`. What git says of commits comes from `source/log.py`. Here
belongs what needs both. Nothing here changes the fleet; only `trail.py` writes, and only rows, checkpoints and notes.
"""
