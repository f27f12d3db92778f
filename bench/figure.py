"""One figure of the bench, and the table and file that all of them go to (contracts, §8)."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from time import perf_counter

OUTPUT = Path("build/bench.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """`budget` is what `value` (or `ratio`, where there is one) must keep; `at_most` says in which direction."""

    name: str
    value: float
    unit: str
    reference: str = ""
    reference_value: float | None = None
    budget: float | None = None
    at_most: bool = True
    by_ratio: bool = False

    @property
    def ratio(self) -> float | None:
        return self.value / self.reference_value if self.reference_value else None

    @property
    def met(self) -> bool | None:
        judged = self.ratio if self.by_ratio else self.value
        if self.budget is None or judged is None:
            return None
        return judged <= self.budget if self.at_most else judged >= self.budget

    def to_json(self) -> dict[str, object]:
        shown = {k: v for k, v in asdict(self).items() if k not in ("at_most", "by_ratio")}
        return {**shown, "ratio": self.ratio, "met": self.met}


def timed(work: Callable[[], object], runs: int = 5) -> float:
    """The median of the seconds that `work` takes, after one run that does not count."""
    work()
    seconds: list[float] = []
    for _ in range(runs):
        start = perf_counter()
        work()
        seconds.append(perf_counter() - start)
    return median(seconds)


def report(figures: Sequence[Figure]) -> None:
    """Print the table and write the file; figures measured earlier and not now are kept in the file."""
    OUTPUT.parent.mkdir(exist_ok=True)
    known = {f["name"]: f for f in json.loads(OUTPUT.read_text())} if OUTPUT.exists() else {}
    known |= {f.name: f.to_json() for f in figures}
    OUTPUT.write_text(json.dumps(list(known.values()), indent=2) + "\n")
    print(f"{'figure':<44}{'value':>10} {'unit':<8}{'reference':>22}{'ratio':>7}  {'budget':<9}met")
    for figure in figures:
        reference = "" if figure.reference_value is None else f"{figure.reference} {figure.reference_value:.3g}"
        ratio = "" if figure.ratio is None else f"{figure.ratio:.2f}"
        sign = "≤" if figure.at_most else "≥"
        budget = "" if figure.budget is None else f"{sign} {figure.budget:g}{' x' if figure.by_ratio else ''}"
        met = {True: "yes", False: "NO", None: "-"}[figure.met]
        print(f"{figure.name:<44}{figure.value:>10.3g} {figure.unit:<8}{reference:>22}{ratio:>7}  {budget:<9}{met}")
