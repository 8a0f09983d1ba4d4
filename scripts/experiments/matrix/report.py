# SPDX-License-Identifier: Apache-2.0
"""The matrix as tables, as numbers and as a picture."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

import matplotlib.pyplot as plt
from scipy.stats import spearmanr

from experiments.matrix.forms import FORMS
from experiments.matrix.prognosis import NUMBERS
from experiments.matrix.results import MatrixResults
from modeling_langbridge.utils.files import atomic_file


METRICS = ("CIDEr", "yes/no")
FEWEST_SWAPS = 5  # for a rank correlation


@dataclass(frozen=True)
class Cell:
    """
    One form from one source on one target.

    Args:
        form (`str`), source (`str`, *optional*), target (`str`): Which; a grounded form has no source.
        shares (`dict[str, float]`): Of each metric, the mean over the seeds as a share of the target's own MLP's.
        values (`dict[str, list[float]]`): Of each metric, what was measured with each seed.
        tokens (`float`): Visual tokens per photo.
        prognosis (`dict[str, float | None]`): What was known beforehand, means over the seeds.
    """

    form: str
    source: str | None
    target: str
    shares: dict[str, float]
    values: dict[str, list[float]]
    tokens: float
    prognosis: dict[str, float | None]

    @property
    def is_swap(self) -> bool:
        """Whether nothing of the adapter was trained with the target."""
        return self.source != self.target


def read_own(results: MatrixResults) -> dict[str, list[dict]]:
    """What each target that has cells has with its own MLP, of every seed that there is."""
    targets = [target for target in results.language_models if results.of("cells", target)]
    return {target: [own for [own] in results.of("own", target)] for target in targets}


def read_cells(results: MatrixResults, own: dict[str, list[dict]]) -> list[Cell]:
    """All cells of these targets, in the order of the tables."""
    cells = []
    for target in own:
        for measured in zip(*results.of("cells", target), strict=True):
            values = {metric: [cell[metric] for cell in measured] for metric in METRICS}
            shares = {
                metric: fmean(of_seeds) / max(fmean(cell[metric] for cell in own[target]), 1e-9)
                for metric, of_seeds in values.items()
            }
            prognosis = {name: mean_of_known([cell["prognosis"][name] for cell in measured]) for name in NUMBERS}
            tokens = fmean(cell["tokens"] for cell in measured)
            form, source = measured[0]["form"], measured[0]["source"]
            cells.append(Cell(form, source, target, shares, values, tokens, prognosis))
    return cells


def mean_of_known(numbers: Sequence[float | None]) -> float | None:
    return None if None in numbers else fmean(numbers)


def targets_of(cells: Sequence[Cell]) -> list[str]:
    return list(dict.fromkeys(cell.target for cell in cells))


def describe(results: MatrixResults, own: dict[str, list[dict]], cells: Sequence[Cell]) -> str:
    """All tables, in markdown."""
    sizes = results.sizes
    notes = (
        f"Converged: {sizes.judging_steps} steps lowered the dev photos' loss by less than {sizes.least_gain} three "
        "times in a row, each time at a third of the learning rate."
    )
    return "\n\n".join(
        [
            describe_own(results, own),
            notes,
            describe_forms(cells),
            "CIDEr, then yes/no answers, means and standard deviations over the seeds, in brackets as shares of what "
            "the target's own MLP has; in italics where nothing was swapped:",
            describe_cells(cells),
            describe_prognosis(cells),
        ]
    )


def describe_own(results: MatrixResults, own: dict[str, list[dict]]) -> str:
    """What the cells are shares of, and whether it had converged."""
    rows = [["own MLP of", "seeds", "CIDEr", "yes/no right", "loss", "steps", "converged"]]
    for target, of_seeds in own.items():
        trained = results.of("mlp", target)
        means = [describe_seeds([cell[name] for cell in of_seeds]) for name in ("CIDEr", "yes/no", "loss")]
        steps = f"{fmean(mlp['steps'] for mlp in trained):.0f}"
        converged = "yes" if all(mlp["converged"] for mlp in trained) else "no"
        rows.append([target, str(len(of_seeds)), *means, steps, converged])
    return write_table(rows)


def describe_forms(cells: Sequence[Cell]) -> str:
    """The mean and the worst share of each form over all swaps."""
    heads = [f"{metric}, {what}" for metric in METRICS for what in ("mean share", "worst")]
    rows = [["nothing trained for the target", "tokens", "swaps", *heads]]
    for form, label in FORMS.items():
        swaps = [cell for cell in cells if cell.form == form and cell.is_swap]
        if not swaps:
            continue
        shares = [[cell.shares[metric] for cell in swaps] for metric in METRICS]
        numbers = [f"{summary(of_metric):.0%}" for of_metric in shares for summary in (fmean, min)]
        rows.append([label, f"{fmean(cell.tokens for cell in swaps):.0f}", str(len(swaps)), *numbers])
    return write_table(rows)


def describe_seeds(values: Sequence[float]) -> str:
    """The mean over the seeds, and their standard deviation where there are several."""
    return f"{fmean(values):.3f}" + (f" ± {stdev(values):.3f}" if len(values) > 1 else "")


def describe_cells(cells: Sequence[Cell]) -> str:
    """CIDEr and yes/no accuracy of each cell, and their shares; where nothing was swapped in italics."""
    targets = targets_of(cells)
    rows = [["form", "source", *targets]]
    places = {(cell.form, cell.source, cell.target): cell for cell in cells}
    for form, source in dict.fromkeys((cell.form, cell.source) for cell in cells):
        row = [FORMS[form], source or "none"]
        for target in targets:
            cell = places[form, source, target]
            metrics = [f"{describe_seeds(cell.values[metric])} ({cell.shares[metric]:.0%})" for metric in METRICS]
            text = "; ".join(metrics)
            row.append(text if cell.is_swap else f"*{text}*")
        rows.append(row)
    return write_table(rows)


def correlate(cells: Sequence[Cell], number: str, form: str | None = None) -> tuple[int, float, float] | None:
    """Over how many swaps a number is known, its Spearman correlation with the share of CIDEr, and the p-value."""
    swaps = [
        cell for cell in cells if cell.is_swap and cell.prognosis[number] is not None and form in (None, cell.form)
    ]
    known = [cell.prognosis[number] for cell in swaps]
    if len(swaps) < FEWEST_SWAPS or len(set(known)) == 1:
        return None
    result = spearmanr(known, [cell.shares["CIDEr"] for cell in swaps])
    return len(swaps), result.statistic, result.pvalue


def describe_prognosis(cells: Sequence[Cell]) -> str:
    """How well what is known beforehand ranks the swaps, over all forms and within those that have a source."""
    rows = [["known beforehand", "swaps", "Spearman with CIDEr's share", "p", *(f"within {form}" for form in FORMS)]]
    for number, label in NUMBERS.items():
        overall = correlate(cells, number)
        within = [correlate(cells, number, form) for form in FORMS]
        numbers = [str(overall[0]), f"{overall[1]:.2f}", f"{overall[2]:.2g}"] if overall else ["0", "", ""]
        rows.append([label, *numbers, *("" if found is None else f"{found[1]:.2f}" for found in within)])
    return write_table(rows)


def write_table(rows: Sequence[Sequence[str]]) -> str:
    head, *rest = (f"| {' | '.join(row)} |" for row in rows)
    return "\n".join([head, "|---|" + "---:|" * (len(rows[0]) - 1), *rest])


def draw_matrix(cells: Sequence[Cell], path: str | os.PathLike) -> None:
    """Draws each swap's share of the target's own MLP, a row a form, a colour a target."""
    targets = targets_of(cells)
    figure, axes = plt.subplots(1, len(METRICS), figsize=(11, 4.5), sharey=True)
    for axis, metric in zip(axes, METRICS, strict=True):
        for position, target in enumerate(targets):
            swaps = [cell for cell in cells if cell.target == target and cell.is_swap]
            offset = 0.1 * (position - (len(targets) - 1) / 2)
            places = [list(FORMS).index(cell.form) + offset for cell in swaps]
            axis.scatter([100 * cell.shares[metric] for cell in swaps], places, s=18, label=target)
        axis.axvline(100, color="grey", linewidth=1)
        axis.set_yticks(range(len(FORMS)), list(FORMS.values()))
        axis.set_xlabel(f"{metric}, % of the target's own MLP")
        axis.grid(alpha=0.3)
    axes[0].invert_yaxis()
    axes[0].legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=3)
    figure.savefig(path, dpi=110, bbox_inches="tight", format="png")
    plt.close(figure)


def write_report(results: MatrixResults, folder: Path) -> str:
    """Writes results.md and matrix.png of the targets that are measured; returns the tables.

    Before any is measured there are none, and nothing is written."""
    own = read_own(results)
    if not own:
        return ""
    cells = read_cells(results, own)
    text = f"{describe(results, own, cells)}\n"
    if results.seconds:
        text += f"\nSeconds: {', '.join(f'{name} {taken:.0f}' for name, taken in results.seconds.items())}.\n"
    with atomic_file(folder / "results.md") as unfinished:
        unfinished.write_text(text, encoding="utf-8")
    with atomic_file(folder / "matrix.png") as unfinished:
        draw_matrix(cells, unfinished)
    return text
