"""The pass: git -> desired -> observed -> plan -> guard -> apply -> audit, one module per step, and what wakes it.

Not here: what any kind means (`kinds/`), and anything of messages (`router/`).
"""
