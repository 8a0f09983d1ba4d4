# SPDX-License-Identifier: Apache-2.0
"""The table of an evaluation, and its results in the form that cards take."""

from collections.abc import Mapping

from .controls import OWN
from .intervals import Estimate, Measure


Measures = Mapping[str, Mapping[str, Measure]]


def evaluation_table(task: str, shown: Measures) -> str:
    """
    A row for each measure, a column for what was shown in the picture's place.

    Args:
        task (`str`): its name.
        shown (`Mapping`): by what was shown, the measures by name; the first is the picture itself.

    Returns:
        `str`: markdown. Intervals of controls are those of their difference from the picture itself, whose sign they
        have.
    """
    lines = [f"| {task} | {' | '.join(shown)} |", "|---|" + "---:|" * len(shown)]
    for name, own in shown[OWN].items():
        cells = [str(own.estimate())]
        cells += [against(own, measures[name]) for what, measures in shown.items() if what != OWN]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def against(own: Measure, control: Measure) -> str:
    difference: Estimate = control.minus(own)
    return f"{control.value():.3f} ({difference.value:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}])"
