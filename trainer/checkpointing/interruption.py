# SPDX-License-Identifier: Apache-2.0
"""What an interrupted run leaves: said when it ends, and no obstacle when the same command starts again."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from .checkpoints import find_last_checkpoint


LOCK_FILE = ".lock"
# What a run writes before its first checkpoint: metrics, previews, and the model that a LoRA belongs to.
BEFORE_CHECKPOINTS = ("runs", "preview", "base", LOCK_FILE)  # as names begin


def check_output_dir(output_dir: str | Path) -> None:
    """Raises `ValueError` where a run would begin in a folder that holds more than one that kept nothing left."""
    output_dir = Path(output_dir)
    allowed = (*BEFORE_CHECKPOINTS, f"{PREFIX_CHECKPOINT_DIR}-")
    whole = find_last_checkpoint(output_dir)
    if whole is not None or any(not path.name.startswith(allowed) for path in output_dir.glob("*")):
        raise ValueError(
            f"--output_dir {output_dir} is not empty: name another folder, or go on with --resume_from_checkpoint "
            "last."
        )


def set_previews_aside(output_dir: str | Path) -> None:
    """Renames the previews of a run that kept nothing, so that those of the run that begins do not join them."""
    preview = Path(output_dir) / "preview"
    if preview.is_dir():
        number = len(list(preview.parent.glob("previews_of_stopped_run_*"))) + 1
        preview.rename(preview.parent / f"previews_of_stopped_run_{number}")


@contextmanager
def saying_what_is_kept(output_dir: str | Path, speaks: bool) -> Iterator[None]:
    """
    Around a training run: an interruption says what it leaves and how to go on.

    Args:
        output_dir (`str` or `Path`): where the run writes its checkpoints.
        speaks (`bool`): `False` in all processes but one.
    """
    try:
        yield
    except KeyboardInterrupt as interruption:
        if not speaks:
            raise
        last = find_last_checkpoint(output_dir)
        kept = "nothing was kept, the same command starts again."
        if last is not None:
            kept = f"{last.name} is kept; go on with the same command and --resume_from_checkpoint last."
        raise type(interruption)(f"Interrupted: {kept}") from None
