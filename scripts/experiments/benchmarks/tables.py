# SPDX-License-Identifier: Apache-2.0
"""What a benchmark prints: tables for people, the same as JSON, and the machine that they are of."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import date

import torch
import transformers

from trainer.publishing.recorder import name_device

from .measuring import PRODUCT, PRODUCT_SIZE, Timing, Work


@dataclass
class Table:
    title: str
    columns: list[str]
    rows: list[list[str | int | float]]
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [self.columns, ["---", *("---:" for _ in self.columns[1:])], *self.rows]
        table = "\n".join("| " + " | ".join(map(show, line)) + " |" for line in lines)
        return "\n\n".join([f"**{self.title}**", table, *self.notes])

    def as_json(self) -> dict:
        return asdict(self)


def show(value: str | int | float) -> str:
    """A number in three digits, so that tables do not say more than was measured."""
    if not isinstance(value, float):
        return f"{value:,}" if isinstance(value, int) else value
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def spread(values: list[float]) -> str:
    """The smallest and the largest of all rounds."""
    return f"{show(min(values))} to {show(max(values))}"


def compare(
    title: str,
    timings: Mapping[str, Timing],
    work: Mapping[str, Work] | None = None,
    further: Mapping[str, Mapping[str, str | int | float]] | None = None,
    notes: list[str] | None = None,
) -> Table:
    """
    A table of ways that were timed in turn, each against the first.

    Args:
        timings: Of each way, and of the machine's product where they were timed `with_product`.
        work: What each way computes and moves.
        further: Columns of the caller's own, by their heading and way.
    """
    timings = dict(timings)
    product, first = timings.pop(PRODUCT, None), next(iter(timings.values()))
    columns = ["", "seconds", "fastest to slowest", "against the first"]
    columns += ["multiply-adds", "bytes moved", "memory, MiB"] if work else []
    columns += ["of the peak"] if work and product else []
    columns += list(further or {})
    rows = []
    for name, timing in timings.items():
        row = [name, timing.median, spread(timing.seconds)]
        row.append(f"{timing.ratio_to(first):.3f}")
        if work:
            row += [f"{work[name].multiply_adds:.2e}", f"{work[name].bytes:.2e}", work[name].peak / 2**20]
        if work and product:
            row.append(f"{work[name].multiply_adds / timing.median * product.median / PRODUCT_SIZE**3:.0%}")
        rows.append(row + [of_way[name] for of_way in (further or {}).values()])
    return Table(title, columns, rows, notes or [])


def describe_machine(device: str) -> dict[str, str | int]:
    """What the figures are of."""
    return {
        "date": date.today().isoformat(),
        "device": name_device(torch.device(device)),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
