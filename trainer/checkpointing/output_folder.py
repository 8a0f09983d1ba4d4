# SPDX-License-Identifier: Apache-2.0
"""A run's output folder: its alone, writable and with room before the work begins, and never half written."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from safetensors import SafetensorError
from transformers import TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME

from hub_cards.training_record import TRAINING_RECORD, read_training_records
from modeling_langbridge.utils.files import read_json
from modeling_langbridge.utils.outputs import give_ordinary_permissions, locked

from .checkpoints import LAST, find_checkpoint, find_last_checkpoint
from .interruption import LOCK_FILE, check_output_dir, saying_what_is_kept


@contextmanager
def writing_to(args: TrainingArguments, saved: str = ".") -> Iterator[int | None]:
    """
    Claims a run's `output_dir` for a block, before anything is read or computed for it.

    Args:
        args (`TrainingArguments`): Of the run. Of several processes only process zero claims the folder.
        saved (`str`, *optional*, defaults to `"."`): Where in `output_dir` the run's training record will be.

    Returns:
        `int` or `None`: yields the steps of a finished run that is resumed, for which nothing is left to do.

    Raises:
        `OSError`: the folder cannot be written, or another run is writing to it.
        `ValueError`: a new run's folder holds more than an interrupted run left, or one to resume from holds no
            complete checkpoint.
    """
    folder = Path(args.output_dir).resolve()
    with claim(folder, args.output_dir) if args.process_index == 0 else nullcontext():
        finished = finished_steps(args, folder / saved / TRAINING_RECORD)
        if finished is None:
            find_checkpoint(args.resume_from_checkpoint, args.output_dir)
        if args.process_index == 0 and args.resume_from_checkpoint is None:
            check_output_dir(args.output_dir)
        with saying_what_is_kept(args.output_dir, args.process_index == 0):
            yield finished


@contextmanager
def claim(folder: Path, name: str) -> Iterator[None]:
    """Makes a folder, finds that it can be written, and locks it for a block; one that stays empty is removed."""
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"--output_dir {name} is a file: name a folder.")
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise OSError(f"--output_dir {name} cannot be written ({error.strerror}): name another folder.") from error
    try:
        with locked(name, folder / LOCK_FILE):
            yield
    finally:
        for path in made:
            with suppress(OSError):  # something is in it
                path.rmdir()


def finished_steps(args: TrainingArguments, record: Path) -> int | None:
    """The steps of the run that is resumed, if its model is saved with its record and no later one is wanted."""
    if args.resume_from_checkpoint is None or not record.is_file():
        return None
    run = read_training_records(record)[-1]
    wanted = run.steps >= args.max_steps if args.max_steps > 0 else (run.epochs or 0) >= args.num_train_epochs
    if args.resume_from_checkpoint in LAST:
        checkpoint = find_last_checkpoint(args.output_dir)
    else:
        checkpoint = find_checkpoint(args.resume_from_checkpoint, args.output_dir)
    at_its_end = checkpoint is None or read_json(checkpoint / TRAINER_STATE_NAME)["global_step"] >= run.steps
    return run.steps if wanted and at_its_end else None


def require_room(folder: Path, size: int) -> None:
    """Raises `OSError` where the disk of a folder has less room than `size` bytes."""
    folder = folder.resolve()
    free = shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists())).free
    if free < size:
        raise OSError(
            f"There is room for {free / 1e9:.1f} GB in {folder}, and a save takes about {size / 1e9:.1f} GB: make "
            "room, or name another folder."
        )


@contextmanager
def saving_to(folder: Path, output_dir: Path) -> Iterator[Path]:
    """
    Yields the folder to save a model into: a checkpoint's own, or one whose files move to `output_dir` at the end of
    the block, so that they are all there or none.

    Raises:
        `OSError`: the model cannot be written to `output_dir`; says what is left to go on from.
    """
    if folder.resolve() != output_dir.resolve():
        yield folder
        give_ordinary_permissions(folder)
        return
    output_dir.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix=".unfinished.", dir=output_dir) as unfinished:
            yield Path(unfinished)
            give_ordinary_permissions(Path(unfinished))
            for path in Path(unfinished).iterdir():
                if path.is_dir():  # the adapter, which an earlier save may have left
                    shutil.rmtree(output_dir / path.name, ignore_errors=True)
                os.replace(path, output_dir / path.name)
    except (OSError, SafetensorError) as error:
        last = find_last_checkpoint(output_dir)
        left = f"go on from {last} with --resume_from_checkpoint last" if last else "train again, as none was kept"
        raise OSError(
            f"The trained model could not be written to {output_dir} ({error}): make room, then {left}."
        ) from error
