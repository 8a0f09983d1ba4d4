# SPDX-License-Identifier: Apache-2.0
"""A video on a command line, and how many of its frames are read."""

import argparse
from typing import TYPE_CHECKING

from .number_arguments import at_least


if TYPE_CHECKING:
    from modeling_langbridge.video_opening import Frame


def add_video_arguments(parser: argparse.ArgumentParser, what: str) -> None:
    """Adds `--video`, `--num_frames` and `--fps`; `what` says what the video is for."""
    video = parser.add_argument_group("video", "Needs PyAV: pip install av. See docs/video.md.")
    video.add_argument("--video", metavar="FILE", help=what)
    video.add_argument("--num_frames", type=at_least(1), help="frames that are read, evenly spread (default: 8)")
    video.add_argument("--fps", type=at_least(0.001, float), help="frames that are read of a second, instead")


def check_video_arguments(arguments: argparse.Namespace, other: str) -> None:
    """Raises `ValueError` for options that do not go together; `other` is the option of images."""
    if arguments.video is None:
        for option in ("num_frames", "fps"):
            if getattr(arguments, option) is not None:
                raise ValueError(f"--{option} chooses the frames of a video: give one as --video.")
    elif getattr(arguments, other) is not None:
        raise ValueError(f"--video and --{other} are two things to read: give one of them.")
    elif arguments.num_frames is not None and arguments.fps is not None:
        raise ValueError("--num_frames and --fps are two ways to choose a video's frames: give one of them.")


def open_frames(arguments: argparse.Namespace) -> "list[Frame]":
    """The frames of `--video`."""
    from modeling_langbridge.video_opening import open_video

    return open_video(arguments.video, arguments.num_frames, arguments.fps)
