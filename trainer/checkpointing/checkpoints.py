# SPDX-License-Identifier: Apache-2.0
"""Which checkpoints are complete, and the removal of one that could not be written to its end."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError
from transformers.trainer import TRAINER_STATE_NAME, TRAINING_ARGS_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from modeling_langbridge.utils.files import read_json


LAST = (True, "true", "True", "last")


def is_complete(checkpoint: Path) -> bool:
    """Whether a checkpoint was written to its end: the trainer's state is the last file that a save writes."""
    try:
        read_json(checkpoint / TRAINER_STATE_NAME)
    except (OSError, ValueError):
        return False
    return True


def find_checkpoints(output_dir: str | Path) -> dict[int, Path]:
    """The complete checkpoints in `output_dir` by their steps, the earliest first; one that a killed run left half
    written is ignored."""
    found = {}
    for folder in Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        step = folder.name.removeprefix(f"{PREFIX_CHECKPOINT_DIR}-")
        if step.isdecimal() and is_complete(folder):
            found[int(step)] = folder
    return dict(sorted(found.items()))


def find_last_checkpoint(output_dir: str | Path) -> Path | None:
    """The newest complete checkpoint in `output_dir`."""
    return next(reversed(find_checkpoints(output_dir).values()), None)


def find_checkpoint(resume_from_checkpoint: str | bool | None, output_dir: str) -> Path | None:
    """
    The checkpoint that a run goes on from.

    Args:
        resume_from_checkpoint (`str` or `bool`, *optional*):
            A checkpoint, or `True` or `"last"` for the newest complete one in `output_dir`.
        output_dir (`str`): Of the run.

    Returns:
        `Path`, or `None` for a run that begins.

    Raises:
        `ValueError`: there is no complete checkpoint there.
    """
    if not resume_from_checkpoint:
        return None
    if resume_from_checkpoint in LAST:
        last = find_last_checkpoint(output_dir)
        if last is None:
            raise ValueError(f"There is no complete checkpoint in {output_dir} to go on from.")
        return last
    if not is_complete(Path(resume_from_checkpoint)):
        raise ValueError(
            f"{resume_from_checkpoint} is no complete checkpoint: give another, or `last` for the newest complete one "
            f"in {output_dir}."
        )
    return Path(resume_from_checkpoint)


def clear_for_adapter(folder: Path) -> None:
    """Takes out of a saved folder what must not travel, and an adapter that an earlier save left there."""
    (folder / TRAINING_ARGS_NAME).unlink()  # a pickle of this machine's paths, which nothing reads
    shutil.rmtree(folder / "adapter", ignore_errors=True)


@contextmanager
def clearing_up(folder: Path) -> Iterator[None]:
    """Removes a checkpoint that cannot be written to its end (a full disk), and tells what is left to go on from."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        last = find_last_checkpoint(folder.parent)
        left = f"the last complete one is {last}" if last else "there is none before it"
        raise OSError(
            f"The checkpoint {folder} could not be written ({error}) and was removed; {left}. Make room and go on "
            "with --resume_from_checkpoint last."
        ) from error
