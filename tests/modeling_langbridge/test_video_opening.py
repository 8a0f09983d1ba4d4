# SPDX-License-Identifier: Apache-2.0
"""A few frames stand for a video: the right ones, at the right times, whatever the file is like."""

import itertools
import struct
import sys
from io import BytesIO

import av
import pytest
import torch
from clips import make_clip
from PIL import Image, ImageDraw

from modeling_langbridge import video_opening
from modeling_langbridge.video_opening import VideoError, open_video


COLOURS = ["red", "lime", "blue", "white"]
FOUR_SECONDS = [colour for colour in COLOURS for _ in range(10)]
NOISE = [Image.effect_noise((64, 48), 100).convert("RGB") for _ in range(40)]


def name_colour(image: Image.Image) -> str:
    red, green, blue = (level > 128 for level in image.getpixel((image.width // 2, image.height // 2)))
    return {(1, 0, 0): "red", (0, 1, 0): "lime", (0, 0, 1): "blue", (1, 1, 1): "white"}[red, green, blue]


def read(video, **sampling) -> list[tuple[float, float, float, str]]:
    return [
        (round(frame.time, 3), round(frame.start, 3), round(frame.end, 3), name_colour(frame.image))
        for frame in open_video(video, **sampling)
    ]


@pytest.mark.parametrize(
    "container, codec",
    [
        *itertools.product(["mp4", "matroska", "mpegts", "mov", "flv"], ["libx264"]),
        ("avi", "mpeg4"),
        ("mp4", "mpeg4"),
        ("mpegts", "mpeg4"),
        ("webm", "libvpx-vp9"),
    ],
)
def test_each_part_of_a_video_is_represented_by_its_middle(container, codec):
    video = make_clip(FOUR_SECONDS, container=container, codec=codec, keyframe_every=7)
    expected = [(0.5, 0, 1, "red"), (1.5, 1, 2, "lime"), (2.5, 2, 3, "blue"), (3.5, 3, 4, "white")]
    assert read(video, num_frames=4) == expected
    assert read(BytesIO(video), fps=1) == expected
    assert [time for time, *_ in read(video)] == [0.2, 0.7, 1.2, 1.7, 2.2, 2.7, 3.2, 3.7]


def test_keyframes_lead_to_the_same_frames_as_decoding_all(monkeypatch):
    video = make_clip(NOISE, codec="libx264", keyframe_every=5)
    found = [frame.image.tobytes() for frame in open_video(video, num_frames=7)]
    decoded = 0

    def from_the_start(container, stream, keyframe):
        nonlocal decoded
        decoded += 1
        container.seek(0)
        return video_opening.decode(container, stream)

    monkeypatch.setattr(video_opening, "decode_from", from_the_start)
    assert found == [frame.image.tobytes() for frame in open_video(video, num_frames=7)]
    assert decoded > 1


def test_frames_are_chosen_by_their_times_where_the_rate_varies():
    times = [0, 0.1, 0.2, 3.0, 3.5, 3.6, 3.7, 3.8, 3.9]
    colours = ["red"] * 2 + ["lime"] + ["blue"] * 6
    for codec in ("mpeg4", "libx264"):
        # The lime one is shown from 0.2 to 3 s: in the middles of three parts of four.
        assert read(make_clip(colours, times, codec=codec), num_frames=4) == [(0.2, 0, 3, "lime"), (3.5, 3, 4, "blue")]


def test_the_last_frame_lasts_as_long_as_others_do():
    # Frames that are kept in another order say nothing of how long the last one is shown.
    video = make_clip(["red", "blue"] * 3, [0, 0.1, 0.2, 3.0, 3.1, 3.2], codec="libx264")
    assert open_video(video)[-1].end == pytest.approx(3.3)


def test_a_video_gives_no_more_frames_than_it_has():
    video = make_clip(COLOURS[:3])
    assert [colour for *_, colour in read(video)] == COLOURS[:3]
    assert [colour for *_, colour in read(video, fps=1e9)] == COLOURS[:3]
    assert [colour for *_, colour in read(make_clip(["blue"]), fps=1e-9)] == ["blue"]


def test_an_animation_is_a_video():
    frames = [Image.new("RGB", (64, 48), colour) for colour in COLOURS]
    file = BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:], duration=[100, 1000, 200, 300])
    assert read(file.getvalue(), num_frames=4)[0] == (0.1, 0, 1.2, "lime")


def test_a_phones_video_is_turned_upright():
    upright = Image.new("RGB", (64, 48), "blue")
    ImageDraw.Draw(upright).rectangle((0, 0, 64, 23), fill="red")
    video = bytearray(make_clip([upright]))
    matrix = video.index(b"tkhd") + 44
    video[matrix : matrix + 36] = struct.pack(">9i", 0, 2**16, 0, -(2**16), 0, 0, 0, 0, 2**30)  # clockwise
    (frame,) = open_video(bytes(video))
    assert frame.image.size == (48, 64)
    assert frame.image.getpixel((40, 30))[0] > 128 and frame.image.getpixel((8, 30))[2] > 128


@pytest.mark.parametrize(
    "container, codec, options",
    [
        ("mp4", "libx264", {"movflags": "faststart"}),
        ("mp4", "mpeg4", {"movflags": "frag_keyframe+empty_moov"}),
        ("matroska", "mpeg4", {}),
        ("avi", "mpeg4", {}),
    ],
)
def test_what_can_be_read_of_a_truncated_video_is_used_with_a_warning(container, codec, options, tmp_path, caplog):
    video = make_clip(NOISE, container=container, codec=codec, **options)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.write_bytes(video)
    cut.write_bytes(video[: len(video) * 6 // 10])
    assert open_video(whole)[-1].end == pytest.approx(4) and not caplog.records
    frames = open_video(cut)
    assert len(frames) == 8 and 1.5 < frames[-1].end < 2.6
    assert f"The video {cut} is truncated or damaged: 8 frames of its first {frames[-1].end:.1f} s are" in caplog.text


@pytest.mark.parametrize("container, codec", [("mp4", "mpeg4"), ("mpegts", "mpeg4"), ("avi", "mpeg4")])
def test_no_half_of_a_frame_is_read(container, codec):
    options = {"movflags": "frag_keyframe+empty_moov"} if container == "mp4" else {}
    video = make_clip(NOISE, container=container, codec=codec, **options)
    whole = {round(frame.time, 3): frame.image.tobytes() for frame in open_video(video, fps=10)}
    assert len(whole) == 40
    for share in (0.55, 0.6, 0.65):
        for frame in open_video(video[: int(len(video) * share)], fps=10):
            assert frame.image.tobytes() == whole[round(frame.time, 3)]


def test_damaged_frames_are_left_out_with_a_warning(caplog):
    video = bytearray(make_clip(NOISE, keyframe_every=10))
    video[len(video) // 2 : len(video) // 2 + 4000] = bytes(4000)
    frames = open_video(bytes(video), fps=10)
    assert 20 < len(frames) < 40
    assert f"A video is truncated or damaged: {len(frames)} frames" in caplog.text


def test_a_video_that_cannot_be_read_is_refused_in_one_sentence(tmp_path):
    sound = BytesIO()
    with av.open(sound, "w", format="mov") as clip:
        stream = clip.add_stream("pcm_s16le", rate=16000, layout="mono")
        samples = av.AudioFrame(format="s16", layout="mono", samples=1024)
        samples.sample_rate, samples.pts = 16000, 0
        clip.mux([*stream.encode(samples), *stream.encode(None)])
    whole = make_clip(FOUR_SECONDS)
    Image.new("RGB", (8, 8)).save(tmp_path / "photo.png")
    playlist = tmp_path / "list.m3u8"
    (tmp_path / "part.ts").write_bytes(make_clip(FOUR_SECONDS, container="mpegts"))
    playlist.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\nfile://{tmp_path}/part.ts\n#EXT-X-ENDLIST\n")
    concat = tmp_path / "list.ffconcat"
    concat.write_text("ffconcat version 1.0\nfile part.ts\n")
    for video, reason in (
        (b"no video", "A video cannot be decoded: it is damaged, or of another format than mov, mp4"),
        (whole[: len(whole) // 2], "A video cannot be decoded"),  # without the index at its end
        (tmp_path / "photo.png", "photo.png cannot be decoded"),
        (playlist, "list.m3u8 cannot be decoded"),
        (concat, "list.ffconcat cannot be decoded"),
        (sound.getvalue(), "A video has no pictures: it has no video stream"),
        (make_clip([], container="avi"), "A video has no frames"),
        (tmp_path / "absent.mp4", "absent.mp4 does not exist"),
        (tmp_path, "is no file"),
        ("https://example.org/a.mp4", "is a URL: download it"),
        (None, "None is neither a path, bytes nor an opened file"),
    ):
        with pytest.raises(VideoError, match=reason) as caught:
            open_video(video)
        assert str(caught.value).endswith(".") and "\n" not in str(caught.value)


def test_frames_that_do_not_fit_into_memory_together_are_refused(monkeypatch):
    video = make_clip(FOUR_SECONDS)
    monkeypatch.setattr(video_opening, "MAX_PIXELS_KEPT", 9 * 64 * 48)
    open_video(video, num_frames=9)
    with pytest.raises(VideoError, match="gives 10 frames of 64 x 48 pixels, which may have .* take fewer"):
        open_video(video, num_frames=10)


@pytest.mark.parametrize("codec", ["libx264", "mpeg4", "ffv1"])
def test_frames_that_are_too_large_are_refused_before_one_is_decoded(codec, monkeypatch):
    video = make_clip(COLOURS, container="matroska", codec=codec, size=(640, 480))
    monkeypatch.setattr(video_opening, "MAX_PIXELS", 640 * 480)
    assert len(open_video(video)) == 4
    for limit in (640 * 480 - 1, 1000):  # the second is also too little for the decoder
        monkeypatch.setattr(video_opening, "MAX_PIXELS", limit)
        with pytest.raises(VideoError, match=f"and they may have {limit:,} pixels each: give a smaller copy"):
            open_video(video)


@pytest.mark.parametrize(
    "sampling, reason",
    [
        ({"num_frames": 4, "fps": 1}, "two ways"),
        ({"num_frames": 0}, "`num_frames` is 0: give a whole number"),
        ({"num_frames": 2.0}, "`num_frames` is 2.0"),
        ({"fps": 0}, "`fps` is 0: give a number of frames a second above 0"),
        ({"fps": float("nan")}, "`fps` is nan"),
        ({"fps": "2"}, "`fps` is '2'"),
    ],
)
def test_numbers_that_choose_no_frames_are_refused(sampling, reason):
    with pytest.raises(ValueError, match=reason):
        open_video(b"", **sampling)


def test_without_pyav_the_command_that_installs_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImportError, match="`pip install av`"):
        open_video(b"")


@pytest.mark.parametrize("sampling, number", [({}, 8), ({"num_frames": 3}, 3), ({"fps": 1}, 4)])
def test_a_video_in_a_message_is_its_frames_as_images(processor, tmp_path, sampling, number):
    path = tmp_path / "clip.mp4"
    path.write_bytes(make_clip(FOUR_SECONDS))
    question = {"type": "text", "text": "what is it?"}
    frames = [{"type": "image", "image": frame.image} for frame in open_video(path, **sampling)]
    assert len(frames) == number
    options = {"tokenize": True, "return_dict": True, "return_tensors": "pt"}
    expected = processor.apply_chat_template([{"role": "user", "content": [*frames, question]}], **options)
    for block in ({"video": str(path)}, {"path": str(path)}, {"video": path.read_bytes()}):
        messages = [{"role": "user", "content": [{"type": "video", **block}, question]}]
        for inputs in (
            processor.apply_chat_template(messages, **options, **sampling),
            processor.apply_chat_template([messages], **options, **sampling),
            processor.apply_chat_template(messages, **options, processor_kwargs=sampling),
        ):
            assert all(torch.equal(inputs[name], expected[name]) for name in expected)
        assert messages[0]["content"][0] == {"type": "video", **block}
        assert processor.apply_chat_template(messages, **sampling).count("<image>") == number
    with pytest.raises(VideoError, match="None is neither a path"):
        processor.apply_chat_template([{"role": "user", "content": [{"type": "video"}]}])
