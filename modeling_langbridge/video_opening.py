# SPDX-License-Identifier: Apache-2.0
"""From a video to a few of its frames, which are then images like others: chosen by their times, decoded by PyAV."""

import math
import os
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from io import BytesIO
from itertools import chain, pairwise
from statistics import median_low
from types import ModuleType
from typing import Any

from PIL import Image
from transformers.utils import logging

from .image_opening import MAX_PIXELS, ImageError


NUM_FRAMES = 8
# FFmpeg's names. Playlists (HLS, DASH, concat) are not among them: they make it open other files and addresses.
CONTAINERS = ("mov", "mp4", "matroska", "webm", "avi", "mpegts", "mpeg", "ogg", "flv", "asf", "gif")
MAX_PIXELS_KEPT = 2**29  # of all chosen frames, 1.6 GB: 258 of 1,920 x 1,080
ROUNDING = 0.5  # seconds by which the length that a file states may differ from its own
KEYS = ("video", "path", "url")  # where a block of a message has its video, transformers'

logger = logging.get_logger(__name__)


class VideoError(ImageError):
    """A video that cannot be read. `fault` names the kind of fault; `reason` names the video and says why."""


@dataclass(frozen=True, eq=False)
class Frame:
    """A frame of a video and the part of the video that it stands for; times are seconds from the first frame.

    Args:
        image (`PIL.Image.Image`): The frame, RGB and upright.
        time (`float`): When it is first shown.
        start (`float`): Where its part begins.
        end (`float`): Where its part ends, which is where the next frame's begins.
    """

    image: Image.Image
    time: float
    start: float
    end: float


def open_video(video: Any, num_frames: int | None = None, fps: float | None = None) -> list[Frame]:
    """
    Opens a video and decodes a few of its frames, evenly spread.

    The video is divided into equal parts, and what is shown in the middle of a part stands for it. That is found by
    the frames' times, so that a variable frame rate makes no difference. A frame that is shown in the middles of
    several parts stands for all of them and comes once. Only the chosen frames are kept in memory.

    Args:
        video:
            A path, bytes or an opened binary file.
        num_frames (`int`, *optional*):
            The number of parts, 8 without `fps`; at most as many as the video has frames.
        fps (`float`, *optional*):
            The number of parts a second, instead.

    Returns:
        `list[Frame]`, in the order of time. What cannot be read of a truncated or damaged video is left out, with a
        warning.

    Raises:
        `ValueError`: both numbers are given, or one of them is not above 0.
        [`VideoError`]: the video is missing, undecodable, without frames, or too large; the message names it.
        `ImportError`: PyAV is not installed.
    """
    check_sampling(num_frames, fps)
    name = f"the video {os.fspath(video)[:200]}" if isinstance(video, (str, os.PathLike)) else "a video"
    with open_container(video, name) as (container, stream):
        clip = measure(container, stream, name)
        parts = (num_frames or NUM_FRAMES) if fps is None else max(1, round(clip.to_seconds(clip.end) * fps))
        parts = min(parts, len(clip.times))
        if parts * stream.width * stream.height > MAX_PIXELS_KEPT:
            raise VideoError(
                "oversized video",
                f"{name} gives {parts:,} frames of {stream.width} x {stream.height} pixels, which may have "
                f"{MAX_PIXELS_KEPT:,} together: take fewer (`num_frames`, `fps`)",
            )
        wanted = clip.find_middles(parts)
        frames = decode_wanted(container, stream, clip, wanted, name)
    if not frames:
        raise VideoError("undecodable video", f"{name} has no frame that can be decoded")
    if clip.is_cut or [frame.time for frame in frames] != [clip.to_seconds(time) for time in sorted(set(wanted))]:
        read = f"{len(frames)} frames of its first {frames[-1].end:.1f} s are read"
        logger.warning(f"{name[0].upper()}{name[1:]} is truncated or damaged: {read}.")
    return frames


def check_sampling(num_frames: int | None, fps: float | None) -> None:
    """Raises `ValueError` for numbers that choose no frames, or choose them in two ways."""
    if num_frames is not None and fps is not None:
        raise ValueError("`num_frames` and `fps` are two ways to choose a video's frames: give one of them.")
    if num_frames is not None and (type(num_frames) is not int or num_frames < 1):
        raise ValueError(f"`num_frames` is {num_frames!r}: give a whole number of at least 1.")
    if fps is not None and not (type(fps) in (int, float) and 0 < fps < math.inf):
        raise ValueError(f"`fps` is {fps!r}: give a number of frames a second above 0.")


def import_av() -> ModuleType:
    try:  # an import that is not tried would keep transformers from loading a checkpoint without PyAV
        import av
    except ImportError as error:
        raise ImportError("Videos are decoded by PyAV, which is not installed: `pip install av`.") from error
    return av


@contextmanager
def open_container(video: Any, name: str) -> Iterator[tuple[Any, Any]]:
    """PyAV's container of a video and its stream of pictures. FFmpeg itself opens nothing, neither files nor URLs."""
    av = import_av()
    if isinstance(video, (str, os.PathLike)):
        if str(video).startswith(("http://", "https://")):
            raise VideoError("missing video", f"{name} is a URL: download it and give its file")
        if not os.path.isfile(video):  # a named pipe, opened, would wait for ever
            raise VideoError("missing video", f"{name} {'is no file' if os.path.exists(video) else 'does not exist'}")
        source = open(video, "rb")
    elif isinstance(video, bytes):
        source = BytesIO(video)
    elif callable(getattr(video, "read", None)):
        source = nullcontext(video)
    else:
        raise VideoError("undecodable video", f"{video!r:.60} is neither a path, bytes nor an opened file")
    # For decoders, which FFmpeg also tries when it opens a file. They count a frame's rim, too.
    limits = {"max_pixels": str(2 * MAX_PIXELS)}
    options = {"format_whitelist": ",".join(CONTAINERS), "protocol_whitelist": "", **limits}
    unreadable = f"{name} cannot be decoded: it is damaged, or of another format than {', '.join(CONTAINERS)}"
    with source as file:
        try:
            container = av.open(file, options=options, metadata_errors="replace")
        except av.error.FFmpegError as error:
            raise VideoError("undecodable video", unreadable) from error
        with container:
            if not len(container.streams):
                raise VideoError("undecodable video", unreadable)
            stream = container.streams.best("video")
            if stream is None:
                raise VideoError("undecodable video", f"{name} has no pictures: it has no video stream")
            if stream.codec_context is None:
                raise VideoError("undecodable video", f"{name} is coded in a way that PyAV cannot decode")
            check_size(stream.width, stream.height, name)
            stream.codec_context.options = limits
            yield container, stream


def check_size(width: int, height: int, name: str) -> None:
    if not 0 < width * height <= MAX_PIXELS:
        size = f"{width} x {height} pixels" if width else "a size that cannot be read"
        reason = f"{name} has frames of {size}, and they may have {MAX_PIXELS:,} pixels each: give a smaller copy"
        raise VideoError("oversized video", reason)


@dataclass(frozen=True)
class Clip:
    """When a video's frames are shown, in units of its stream: their times, those of its keyframes, and its end."""

    times: list[int]
    keyframes: list[int]
    end: int
    unit: Fraction  # in seconds
    is_cut: bool

    def to_seconds(self, time: int) -> float:
        return float((time - self.times[0]) * self.unit)

    def find_middles(self, parts: int) -> list[int]:
        """The times of the frames that are shown in the middles of equal parts."""
        first, length = self.times[0], self.end - self.times[0]
        middles = [first + length * (2 * part + 1) // (2 * parts) for part in range(parts)]
        return [self.times[bisect_right(self.times, middle) - 1] for middle in middles]


def measure(container: Any, stream: Any, name: str) -> Clip:
    """Reads a video through without decoding it: the length that a file states may be wrong or missing."""
    durations, keyframes = {}, []
    is_cut, read = False, 0.0  # how far the file can be read, its sound included, in seconds
    with suppress(import_av().error.FFmpegError):
        for packet in container.demux():
            time = packet.dts if packet.pts is None else packet.pts
            if packet.size == 0 or time is None:
                continue
            is_cut |= packet.is_corrupt
            read = max(read, float((time + packet.duration) * packet.time_base))
            if packet.stream is stream and not packet.is_corrupt:
                durations[time] = packet.duration
                keyframes += [time] if packet.is_keyframe else []
    if not durations:
        raise VideoError("undecodable video", f"{name} has no frames")
    is_cut |= (container.duration or 0) / 1e6 > read + ROUNDING
    times = sorted(durations)
    last = durations[times[-1]]
    if len(times) > 1 and (last == 0 or times != list(durations)):
        # Of frames that are kept in another order than shown, a packet's duration says how far the next packet is.
        last = median_low(after - before for before, after in pairwise(times))
    return Clip(times, sorted(keyframes), times[-1] + max(1, last), stream.time_base, is_cut)


def decode_wanted(container: Any, stream: Any, clip: Clip, wanted: list[int], name: str) -> list[Frame]:
    """The wanted frames of equal parts; in place of a damaged one, the next that can be decoded."""
    frames, shown, decoded = [], None, iter(())
    for part, time in enumerate(wanted):
        start, end = (clip.to_seconds(clip.end) * (number / len(wanted)) for number in (part, part + 1))
        if shown is not None and shown >= time:
            frames[-1] = replace(frames[-1], end=end)
            continue
        keyframe = max((key for key in clip.keyframes if key <= time), default=clip.times[0])
        if shown is None or keyframe > shown:  # what lies between is passed over
            decoded = decode_from(container, stream, keyframe)
        frame = next((frame for frame in decoded if frame.pts >= time), None)
        if frame is None:
            break
        shown = frame.pts
        frames.append(Frame(to_image(frame, name), clip.to_seconds(shown), start, end))
    return frames


def decode_from(container: Any, stream: Any, keyframe: int) -> Iterator[Any]:
    """PyAV's frames from a keyframe on, or from the start where a container's own search (MPEG's) does not find it."""
    container.seek(keyframe, stream=stream)
    decoded = decode(container, stream)
    frame = next(decoded, None)
    if frame is not None and frame.pts <= keyframe:
        return chain([frame], decoded)
    container.seek(0)
    return decode(container, stream)


def decode(container: Any, stream: Any) -> Iterator[Any]:
    """PyAV's frames from where a container stands, without the damaged ones."""
    damaged = import_av().error.FFmpegError
    with suppress(damaged):
        for packet in container.demux(stream):
            with suppress(damaged):
                for frame in packet.decode():
                    if frame.pts is not None and not frame.is_corrupt:
                        yield frame


def to_image(frame: Any, name: str) -> Image.Image:
    check_size(frame.width, frame.height, name)  # which may change within a video
    image = frame.to_image()
    return image.rotate(frame.rotation, expand=True) if frame.rotation else image


def open_videos(conversation: Any, num_frames: int | None = None, fps: float | None = None) -> Any:
    """Replaces the videos in messages, however they are nested in lists, by their frames, as blocks of images."""
    if isinstance(conversation, (list, tuple)):
        return [open_videos(one, num_frames, fps) for one in conversation]
    if not isinstance(conversation, dict) or not isinstance(conversation.get("content"), (list, tuple)):
        return conversation
    content = []
    for block in conversation["content"]:
        if block.get("type") != "video":
            content.append(block)
            continue
        video = next((block[key] for key in KEYS if key in block), None)
        content += [{"type": "image", "image": frame.image} for frame in open_video(video, num_frames, fps)]
    return {**conversation, "content": content}
