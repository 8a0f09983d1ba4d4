# SPDX-License-Identifier: Apache-2.0
"""What adapters that several language models trained are worth to one that none has met: a table and a picture."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import matplotlib.pyplot as plt
from matplotlib.ticker import MaxNLocator, PercentFormatter

from experiments.matrix.report import mean_of_known, write_table
from experiments.matrix.results import MatrixResults
from experiments.matrix.several import FORMS
from experiments.matrix.world import MatrixSizes
from modeling_langbridge.utils.files import atomic_file


DIAGNOSES = {
    "null_share": "null-space share of all that took part",
    "map_r2": "R² of their words' map to the target's, held out",
    "token_length": "length of a visual token, not scaled",
    "few_words": "share of the 8 largest coefficients",
}


@dataclass(frozen=True)
class SeveralCell:
    """
    One adapter on one target, means over the seeds.

    Args:
        form (`str`), count (`int`), target (`str`): The adapter's form, how many language models trained it, and who
            reads it.
        cider (`float`), loss (`float`): Of its captions, and of people's first ones, in nats a token.
        share (`float`): Its CIDEr as a share of what the target's own MLP has.
        diagnosis (`dict[str, float | None]`): What was known beforehand.
    """

    form: str
    count: int
    target: str
    cider: float
    loss: float
    share: float
    diagnosis: dict[str, float | None]


def read_several(results: MatrixResults) -> list[SeveralCell]:
    """All adapters on the targets that were measured, with their own MLP as well, in the order of the table."""
    cells = []
    for target in results.language_models:
        of_seeds = results.of("several_cells", target)
        own = [cell for [cell] in results.of("own", target)]
        if not of_seeds or not own:
            continue
        for measured in zip(*of_seeds, strict=True):
            cider, loss = (fmean(cell[name] for cell in measured) for name in ("CIDEr", "loss"))
            share = cider / max(fmean(cell["CIDEr"] for cell in own), 1e-9)
            diagnosis = {name: mean_of_known([cell["diagnosis"][name] for cell in measured]) for name in DIAGNOSES}
            form, count = measured[0]["form"], measured[0]["count"]
            cells.append(SeveralCell(form, count, target, cider, loss, share, diagnosis))
    return cells


def describe_several(sizes: MatrixSizes, cells: Sequence[SeveralCell]) -> str:
    """A table for each target."""
    names = sizes.language_models
    tables = [
        f"Adapters that the first, the first two … of {', '.join(names)} trained in turn: raw coefficients in "
        f"{sizes.several_steps} steps in all, the grounded softmax in {sizes.several_tuning_steps}. {names[0]} took "
        f"part in all, {names[-1]} in the last alone, {sizes.newcomer} in none. CIDEr, in brackets as a share of the "
        "own MLP's."
    ]
    for target in dict.fromkeys(cell.target for cell in cells):
        rows = [[f"read by {target}", "trained with", "CIDEr (share)", "loss", *DIAGNOSES.values()]]
        for cell in cells:
            if cell.target == target:
                scores = [f"{cell.cider:.3f} ({cell.share:.0%})", f"{cell.loss:.3f}"]
                known = ["" if value is None else f"{value:.3g}" for value in cell.diagnosis.values()]
                rows.append([FORMS[cell.form], str(cell.count), *scores, *known])
        tables.append(write_table(rows))
    return "\n\n".join(tables) + "\n"


def draw_several(sizes: MatrixSizes, cells: Sequence[SeveralCell], path: str | os.PathLike) -> None:
    """Draws the share of the own MLP over how many language models took part, and the diagnoses beside it."""
    figure, (shares, diagnoses) = plt.subplots(1, 2, figsize=(11, 4.2))
    styles = dict(zip(dict.fromkeys(cell.target for cell in cells), ("--", "-.", "-", ":"), strict=False))
    lines: dict[tuple[str, str], list[SeveralCell]] = {}
    for cell in cells:
        lines.setdefault((cell.form, cell.target), []).append(cell)
    for (form, target), line in lines.items():
        look = {"color": f"C{list(FORMS).index(form)}", "marker": "o", "linestyle": styles[target]}
        label = f"{FORMS[form]}: {target}"
        shares.plot([cell.count for cell in line], [cell.share for cell in line], label=label, **look)
        if target == sizes.newcomer and form != "scaled":  # whose coefficients are the raw ones
            counts, known = zip(*((cell.count, cell.diagnosis) for cell in line if cell.count), strict=True)
            nothing = [numbers["null_share"] for numbers in known]
            diagnoses.plot(counts, nothing, label=f"{DIAGNOSES['null_share']}: {form}", **look)
            r2 = [numbers["map_r2"] for numbers in known]
    diagnoses.plot(counts, r2, marker="s", color="black", label=DIAGNOSES["map_r2"])
    shares.axhline(1, color="grey", linewidth=1)
    shares.yaxis.set_major_formatter(PercentFormatter(1))
    shares.set_ylabel("CIDEr, % of the target's own MLP")
    for axis in (shares, diagnoses):
        axis.set_xlabel("language models that trained the adapter")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8, handlelength=5, loc="upper center", bbox_to_anchor=(0.5, -0.15))
    figure.savefig(path, dpi=110, bbox_inches="tight", format="png")
    plt.close(figure)


def write_several(results: MatrixResults, folder: Path) -> str:
    """Writes several.md and several.png, where the newcomer was measured; returns the tables."""
    cells, sizes = read_several(results), results.sizes
    if sizes.newcomer not in {cell.target for cell in cells}:
        return ""
    text = describe_several(sizes, cells)
    with atomic_file(folder / "several.md") as unfinished:
        unfinished.write_text(text, encoding="utf-8")
    with atomic_file(folder / "several.png") as unfinished:
        draw_several(sizes, cells, unfinished)
    return text
