"""When to try again: exponential, capped, with jitter given as a number in [0, 1)."""


def backoff_s(failures: int, *, base_s: float = 0.5, cap_s: float = 300.0, jitter: float = 0.5) -> float:
    """Seconds to wait after `failures` (>= 1) failures in a row: base * 2^(n-1), capped, times 0.5 to 1."""
    exact = min(cap_s, base_s * 2.0 ** min(failures - 1, 40))
    return exact * (0.5 + jitter / 2)
