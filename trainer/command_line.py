# SPDX-License-Identifier: Apache-2.0
"""What the scripts share: how they end, what they print, and their dtypes.

Neither this module nor a script imports torch before the command line is parsed, so that `--help` answers at once.
"""

import argparse
import logging
import os
import pickle
import re
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError


if TYPE_CHECKING:
    import torch


DTYPES = ("float32", "bfloat16", "float16")

MENDABLE = (OSError, ValueError, FloatingPointError, SafetensorError, StrictDataclassError, pickle.UnpicklingError)
# Errors that torch raises as RuntimeError, as it does its own and our bugs, and what to do about them.
MENDABLE_IN_TORCH = {
    r"out of memory|can't allocate memory": "use a smaller batch, a smaller model or a larger machine",
    r"No space left|disk quota": "make room",
    r"loading state_dict|size mismatch": "the weights are another model's",
    r"PytorchStreamReader|zip archive": "the file of weights is damaged or no file of weights",
    r"DataLoader worker .* (killed|exited)": "use fewer --dataloader_num_workers, or more memory",
}
OWN_PACKAGES = ("trainer", "modeling_langbridge", "hub_cards", "experiments", "serving")
PARSERS = ("json", "yaml")  # what goes too deep in one of these is a file's content, elsewhere a bug

# What transformers says of each run: a tower out of a whole CLIP, and tokens that the processor has added.
USUAL = re.compile(r"LOAD REPORT(?!.*\b(MISSING|MISMATCH|CONVERSION)\b)|new PAD/BOS/EOS tokens", re.DOTALL)


class Terminated(KeyboardInterrupt):
    """SIGTERM: ends a script as Ctrl-C does, with another status."""


def run_script(main: Callable[[], int | None], *, error_status: int = 1, interrupted: str = "") -> None:
    """
    Runs a script. An error that the user can do something about ends it with one sentence instead of a traceback.

    Args:
        main (`Callable[[], int | None]`):
            The script. What it returns is the exit status, `None` being 0.
        error_status (`int`, *optional*, defaults to 1):
            The exit status after such an error.
        interrupted (`str`, *optional*):
            What Ctrl-C (status 130) and SIGTERM (status 143) print, unless the interruption brings its own words.
    """
    be_quiet()
    before = signal.signal(signal.SIGTERM, make_terminate())
    try:
        status = main()
    except KeyboardInterrupt as interruption:
        if words := str(interruption) or interrupted:
            sys.stderr.write(f"\n{words}\n")
        sys.exit(143 if isinstance(interruption, Terminated) else 130)
    except Exception as error:
        sentence = say_what_to_mend(error)
        if sentence is None:
            raise
        sentence = f"{Path(sys.argv[0]).name}: {sentence}"
        if error_status == 1:
            sys.exit(sentence)
        sys.stderr.write(f"{sentence}\n")
        sys.exit(error_status)
    finally:
        signal.signal(signal.SIGTERM, before)
    if status:
        sys.exit(status)


def make_terminate() -> Callable[[int, FrameType | None], None]:
    """What SIGTERM does: an interruption here, and a plain end in a worker that this process forks."""
    process = os.getpid()

    def terminate(number: int, frame: FrameType | None) -> None:
        if os.getpid() != process:
            os._exit(128 + number)
        raise Terminated

    return terminate


def be_quiet() -> None:
    """Keeps libraries from warning of what is usual, and progress bars out of logs, where they would run together."""
    # PEFT imports bitsandbytes, which warns on every machine without a GPU of a kernel that only 4-bit models use.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    for name in ("transformers.modeling_utils", "transformers.trainer_utils"):
        logging.getLogger(name).addFilter(is_unusual)
    warnings.filterwarnings("ignore", category=FutureWarning)
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")  # read when tqdm is imported


def is_unusual(record: logging.LogRecord) -> bool:
    return USUAL.search(record.getMessage()) is None


def say_what_to_mend(error: Exception) -> str | None:
    """One sentence about an error that the user can do something about, `None` about a bug."""
    if isinstance(error, StrictDataclassError):
        # A strict dataclass, such as a model's configuration, wraps the sentence in one of its own.
        return one_line(error.__cause__ or error)
    if isinstance(error, MENDABLE):
        return one_line(error)
    if isinstance(error, MemoryError):
        return f"the memory does not suffice ({one_line(error)}): use smaller batches or a larger machine."
    if isinstance(error, ModuleNotFoundError):
        package = str(error.name).partition(".")[0]
        return None if package in OWN_PACKAGES else f"this needs the package {package}: `pip install {package}`."
    if isinstance(error, ImportError):  # without a name: a library that asks for another one
        return one_line(error) if error.name is None else None
    if isinstance(error, RecursionError):
        return "a file is nested too deeply to be read." if innermost_package(error) in PARSERS else None
    if isinstance(error, RuntimeError):
        advice = next((advice for said, advice in MENDABLE_IN_TORCH.items() if re.search(said, str(error))), None)
        return advice and f"{one_line(error).rstrip('.')}: {advice}."
    return None


def one_line(error: BaseException) -> str:
    """The first line of an error's message that says something: what ends with a colon only announces the next."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    announced = len(lines) > 1 and lines[0].endswith(":")
    return " ".join(lines[: 2 if announced else 1])


def innermost_package(error: BaseException) -> str:
    """The package of the function that raised an error."""
    step = error.__traceback__
    while step.tb_next is not None:
        step = step.tb_next
    return step.tb_frame.f_globals.get("__name__", "").partition(".")[0]


def torch_dtype(name: str | None) -> "torch.dtype | None":
    """The dtype of one of the names in `DTYPES`, `None` for `None`."""
    import torch

    return None if name is None else getattr(torch, name)


def check_output_file(path: Path | None) -> None:
    """Raises `ValueError` where `--output` names a file that exists or cannot be written, or a missing folder."""
    if path is None:
        return
    check_new_file(path, "--output")
    if not path.parent.is_dir():
        raise ValueError(f"--output {path} cannot be written: there is no folder {path.parent}.")


def check_new_file(path: Path, flag: str) -> None:
    """Raises `ValueError` where a flag's file exists, or nothing can be written to the nearest folder above it."""
    if path.exists():
        raise ValueError(f"{flag} {path} exists: remove it or name another one.")
    above = next(folder for folder in path.resolve().parents if folder.exists())
    try:
        tempfile.TemporaryFile(dir=above).close()
    except OSError as error:
        raise ValueError(f"{flag} {path} cannot be written ({error.strerror}): name another place.") from error


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the description's lines and shows the defaults."""
