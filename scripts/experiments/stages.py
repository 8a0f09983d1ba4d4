# SPDX-License-Identifier: Apache-2.0
"""A long job as stages that each leave a complete folder or none, so that a second run continues where one stopped.

Stages that do not need one another can run side by side, in a process and with a single thread each: tiny models gain
little from a second thread, and lose much where other work wants the same core. With one thread the numbers are the
same however many cores there are.
"""

import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial, update_wrapper
from pathlib import Path
from typing import Any

from modeling_langbridge.utils.files import atomic_file, atomic_folder, read_json
from modeling_langbridge.utils.outputs import locked


Stage = Callable[[Path], None]


def make_stage(function: Callable[..., None], *arguments: Any) -> Stage:
    """A stage of a function that takes these arguments and a folder; its name and docstring are the function's."""
    return update_wrapper(partial(function, *arguments), function)


def claim_output_dir(output_dir: Path, settings: Mapping[str, Any]) -> None:
    """
    Makes a folder the job's own and writes its settings there, or finds that it already is.

    Args:
        output_dir (`Path`): made where it does not exist.
        settings (`Mapping[str, Any]`): all that decides the results; written to `settings.json`.

    Raises:
        `FileExistsError`: the folder holds a job with other settings, or something else; nothing in it is touched.
        `OSError`: it cannot be written.
    """
    file = output_dir / "settings.json"
    text = json.dumps(settings, indent=1) + "\n"
    if file.exists():
        if file.read_text(encoding="utf-8") != text:
            raise FileExistsError(f"{output_dir} holds results of other settings, see {file}: name another folder.")
    elif output_dir.exists() and (not output_dir.is_dir() or any(output_dir.iterdir())):
        raise FileExistsError(f"{output_dir} is no output of this script, and not an empty folder: name another one.")
    else:
        try:
            output_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise type(error)(f"{output_dir} cannot be written ({error.strerror}): name another folder.") from error
        with atomic_file(file) as unfinished:
            unfinished.write_text(text, encoding="utf-8")


def run_stages(
    output_dir: Path, groups: Sequence[Mapping[str, Stage]], after_group: Callable[[], Any] | None = None
) -> dict[str, float]:
    """
    Runs groups of stages one after the other, the stages of a group side by side, and says on stderr which.

    A stage whose folder exists is not run again.

    Args:
        output_dir (`Path`): the folder of the stages' folders.
        groups (`Sequence[Mapping[str, Callable[[Path], None]]]`):
            By name of the stage and of its folder: what fills the folder, which it is given empty. Its docstring is
            shown. The folder appears when it is complete. Stages must be picklable (functions of a module, or
            `functools.partial` of such).
        after_group (`Callable[[], Any]`, *optional*): Called after each group in which a stage was run, to show what
            there is so far.

    Returns:
        `dict[str, float]`: the seconds each stage took, now or in an earlier run.

    Raises:
        `ChildProcessError`: a stage of several failed; its own process has said why. A stage that is alone in its
            group runs in this process and raises what it raises.
        `OSError`: another run is writing to the folder.
    """
    names = [name for group in groups for name in group]
    with locked(output_dir, output_dir / ".lock"):
        for group in groups:
            if _run_group(output_dir, group, names) and after_group is not None:
                after_group()
    return {name: read_json(output_dir / name / "seconds.json") for name in names}


def _run_group(output_dir: Path, group: Mapping[str, Stage], names: Sequence[str]) -> bool:
    """Returns whether anything was left to run."""
    missing = {output_dir / name: stage for name, stage in group.items() if not (output_dir / name).exists()}
    for name, stage in group.items():
        done = "" if output_dir / name in missing else " Done before."
        sys.stderr.write(f"[{names.index(name) + 1}/{len(names)}] {name}: {(stage.__doc__ or '').strip()}{done}\n")
    if len(group) > 1:
        _run_together(missing)
    else:
        for folder, stage in missing.items():
            _run_stage(folder, stage)
    return bool(missing)


def _run_together(stages: Mapping[Path, Stage]) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_run_in_child, args=item, name=item[0].name) for item in stages.items()]
    before = dict(os.environ)
    # Ignored, as it then is in the children until they are able to remove their folders.
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        for position, process in enumerate(processes):
            # tqdm takes the defaults of its arguments from such variables: each bar has its own name and line.
            os.environ.update(OMP_NUM_THREADS="1", TQDM_DESC=process.name, TQDM_POSITION=str(position))
            process.start()
    finally:
        os.environ.clear()
        os.environ.update(before)
        signal.signal(signal.SIGINT, handler)
    try:
        for process in processes:
            process.join()
    except KeyboardInterrupt:
        _interrupt(processes)
        raise
    failed = [process.name for process in processes if process.exitcode != 0]
    if failed:
        raise ChildProcessError(f"stage {' and '.join(failed)} failed, see above; the others are kept.")


def _interrupt(processes: Sequence[multiprocessing.process.BaseProcess]) -> None:
    """Waits until interrupted processes have removed their folders; interrupts those that the terminal did not."""
    for process in processes:
        process.join(timeout=1)
        while process.is_alive():
            os.kill(process.pid, signal.SIGINT)
            process.join(timeout=1)


def _run_in_child(folder: Path, stage: Stage) -> None:
    try:
        signal.signal(signal.SIGINT, _interrupt_once)
        _run_stage(folder, stage)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # nothing is left to interrupt but this process's way out
    except KeyboardInterrupt:
        sys.exit(130)


def _interrupt_once(*_) -> None:
    """Interrupts the stage once: a second Ctrl-C while it removes its folder would leave half of it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt


def _run_stage(folder: Path, stage: Stage) -> None:
    start = time.perf_counter()
    with atomic_folder(folder) as unfinished:
        stage(unfinished)
        (unfinished / "seconds.json").write_text(json.dumps(time.perf_counter() - start) + "\n", encoding="utf-8")
