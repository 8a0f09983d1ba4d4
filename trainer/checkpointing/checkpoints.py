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


def is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint was written to its end: the trainer's state is the last file that a save writes."""
    try:
        read_json(checkpoint / TRAINER_STATE_NAME)
    except (OSError, ValueError):
        return False
    return True


def find_last_checkpoint(output_dir: str | Path) -> Path | None:
    """The newest whole checkpoint in `output_dir`; one that a killed run left half written is ignored."""
    found = []
    for folder in Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        step = folder.name.removeprefix(f"{PREFIX_CHECKPOINT_DIR}-")
        if step.isdecimal() and is_whole(folder):
            found.append((int(step), folder))
    return max(found)[1] if found else None


def checkpoint_to_resume(asked: str | bool | None, output_dir: str | Path) -> Path | None:
    """
    The checkpoint that a run goes on from.

    Args:
        asked (`str` or `bool`, *optional*): a checkpoint, or `True` or `"last"` for the newest whole one.
        output_dir (`str` or `Path`): the run's.

    Raises:
        `ValueError`: there is none, or the one that is asked for is not whole.
    """
    if asked in (True, "true", "True", "last"):
        last = find_last_checkpoint(output_dir)
        if last is None:
            raise ValueError(f"There is no whole checkpoint in {output_dir} to go on from.")
        return last
    if asked and not is_whole(Path(asked)):
        raise ValueError(
            f"{asked} is no whole checkpoint: give another, or `last` for the newest whole one in {output_dir}."
        )
    return Path(asked) if asked else None


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
        whole = f"the last whole one is {last}" if last else "there is none before it"
        raise OSError(
            f"The checkpoint {folder} could not be written ({error}) and was removed; {whole}. Make room and go on "
            "with --resume_from_checkpoint last."
        ) from error
