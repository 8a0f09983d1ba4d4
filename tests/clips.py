# SPDX-License-Identifier: Apache-2.0
"""Small videos of drawn colours, made by PyAV."""

from collections.abc import Sequence
from fractions import Fraction
from tempfile import NamedTemporaryFile

import av
from PIL import Image


def make_clip(
    pictures: Sequence[Image.Image | str],
    times: Sequence[float] | None = None,
    container: str = "mp4",
    codec: str = "mpeg4",
    size: tuple[int, int] = (64, 48),
    keyframe_every: int = 12,
    **options: str,
) -> bytes:
    """A video of pictures, or of one-coloured ones, shown from these times on (by default ten a second)."""
    unit = Fraction(1, 10 if times is None else 1000)  # of time, in seconds
    # Not in memory: FFmpeg opens a file again by its name to move its index to the front.
    with NamedTemporaryFile() as file, av.open(file.name, "w", format=container, options=options) as clip:
        stream = clip.add_stream(codec, rate=10)
        (stream.width, stream.height), stream.pix_fmt = size, "yuv420p"
        stream.codec_context.time_base, stream.codec_context.gop_size = unit, keyframe_every
        clip.start_encoding()  # a video without a picture is one, too
        for number, picture in enumerate(pictures):
            image = Image.new("RGB", size, picture) if isinstance(picture, str) else picture
            frame = av.VideoFrame.from_image(image)
            frame.pts = number if times is None else round(times[number] / unit)
            frame.time_base = unit
            clip.mux(stream.encode(frame))
        clip.mux(stream.encode(None))
        clip.close()
        return file.read()
