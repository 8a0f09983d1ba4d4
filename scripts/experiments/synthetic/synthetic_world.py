# SPDX-License-Identifier: Apache-2.0
"""A small synthetic world to learn to caption: two coloured shapes per picture, many ways to say what is there.

Some pairs of colour and shape (`UNSEEN_PAIRS`) are kept out of every training picture. A held-out scene shows at
least one of them, so a correct caption names a thing that no training picture showed. Language models
also read about other scenes with such pairs, as real ones have read of more than training photos show; but never about
a scene that is held out.
"""

import random
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from math import cos, pi, sin
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw


IMAGE_SIZE = 56  # pixels, both sides
FIELD = 8  # pixels: things stand near the corners of a board's fields, which are the tower's patches
SCALE = 4  # things are drawn larger and reduced, for smooth edges
PROMPT = "Describe the scene."

COLOURS = {
    "red": (214, 40, 40),
    "green": (46, 160, 67),
    "blue": (38, 84, 208),
    "yellow": (240, 205, 30),
    "purple": (128, 50, 168),
    "orange": (244, 132, 28),
    "pink": (244, 130, 186),
    "black": (28, 28, 32),
}
# What a thing is called: the first word is the attribute's name, the others mean the same.
SHAPES = {
    "circle": ("circle", "disc"),
    "square": ("square", "box"),
    "triangle": ("triangle",),
    "star": ("star",),
    "cross": ("cross", "plus"),
    "ring": ("ring", "hoop"),
}
SIZES = {"small": ("small", "little", "tiny"), "large": ("large", "big", "huge")}
RADIUS = {"small": 6, "large": 11}  # pixels
# How the first-named thing lies to the second-named one.
RELATIONS = {
    "left": ("left of", "to the left of"),
    "right": ("right of", "to the right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
}
OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}
OPENINGS = ("", "there is ", "you can see ", "the picture shows ", "here is ")

_COLOUR_NAMES, _SHAPE_NAMES = list(COLOURS), list(SHAPES)
UNSEEN_PAIRS = frozenset(
    (colour, _SHAPE_NAMES[index % len(_SHAPE_NAMES)]) for index, colour in enumerate(_COLOUR_NAMES)
)


@dataclass(frozen=True)
class Thing:
    """One shape of a scene; each field is a key of `SIZES`, `COLOURS` or `SHAPES`."""

    size: str
    colour: str
    shape: str

    @property
    def unseen(self) -> bool:
        """Whether no training scene shows this colour and shape together."""
        return (self.colour, self.shape) in UNSEEN_PAIRS


@dataclass(frozen=True)
class Scene:
    """
    Two things of different colours and shapes, side by side or one above the other.

    Args:
        first (`Thing`): the left or the upper thing.
        second (`Thing`): the right or the lower thing.
        relation (`str`): how `first` lies to `second`: "left" or "above".
        seed (`int`): of what no caption speaks of: exact places, shades and ground.
    """

    first: Thing
    second: Thing
    relation: str
    seed: int

    @property
    def kind(self) -> Literal["train", "held_out", "text"]:
        """
        What the scene serves for; two scenes of the same things in the same relation are of the same kind.

        "train": without any of `UNSEEN_PAIRS`. Of the others, a third is "held_out", the rest for text only.
        """
        if not (self.first.unseen or self.second.unseen):
            return "train"
        return "held_out" if zlib.crc32(repr((self.first, self.second, self.relation)).encode()) % 3 == 0 else "text"

    def draw(self) -> Image.Image:
        """The picture: RGB, `IMAGE_SIZE` pixels square, the same at every call."""
        rng = np.random.default_rng(self.seed)
        ground, placed = self._place(rng)
        image = Image.new("RGB", (IMAGE_SIZE * SCALE, IMAGE_SIZE * SCALE), ground)
        canvas = ImageDraw.Draw(image)
        for thing, x, y, shade in placed:
            _draw_shape(canvas, thing.shape, x * SCALE, y * SCALE, RADIUS[thing.size] * SCALE, shade, ground)
        pixels = np.asarray(image.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.LANCZOS), dtype=np.float32)
        pixels = pixels + rng.normal(0, 4, pixels.shape)  # (56, 56, 3)
        return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))

    def coverage(self) -> np.ndarray:
        """The share of each field that the first and the second thing cover, `(2, rows, columns)`."""
        fields, side = IMAGE_SIZE // FIELD, FIELD * SCALE
        shares = []
        for thing, x, y, _ in self._place(np.random.default_rng(self.seed))[1]:
            mask = Image.new("L", (IMAGE_SIZE * SCALE, IMAGE_SIZE * SCALE))
            radius = RADIUS[thing.size] * SCALE
            _draw_shape(ImageDraw.Draw(mask), thing.shape, x * SCALE, y * SCALE, radius, 1, 0)
            shares.append(np.asarray(mask).reshape(fields, side, fields, side).mean((1, 3)))
        return np.stack(shares)

    def _place(
        self, rng: np.random.Generator
    ) -> tuple[tuple[int, ...], list[tuple[Thing, float, float, tuple[int, ...]]]]:
        """The ground's colour, and each thing with its place in pixels and its own shade."""
        ground = tuple(int(value) for value in rng.integers(205, 246, 3))
        placed = []
        for thing, along in ((self.first, 2), (self.second, 5)):
            across = rng.integers(2, 6)
            corner = (along, across) if self.relation == "left" else (across, along)
            x, y = np.multiply(corner, FIELD) + rng.uniform(-1, 1, 2)
            shade = tuple(int(value) for value in np.clip(np.add(COLOURS[thing.colour], rng.normal(0, 8, 3)), 0, 255))
            placed.append((thing, x, y, shade))
        return ground, placed

    def caption(self, rng: random.Random) -> str:
        """One of the many sentences that state both things with all attributes, and how they lie."""
        things, relation = (self.first, self.second), self.relation
        if rng.random() < 0.5:
            things, relation = (self.second, self.first), OPPOSITE[self.relation]
        first, second = (
            f"a {rng.choice(SIZES[thing.size])} {thing.colour} {rng.choice(SHAPES[thing.shape])}" for thing in things
        )
        return f"{rng.choice(OPENINGS)}{first} {rng.choice(RELATIONS[relation])} {second}"

    def words(self, rng: random.Random) -> str:
        """The scene as loose words, thing by thing, each with a space before it: what visual tokens should be like."""
        places = (self.relation, OPPOSITE[self.relation])
        groups = []
        for thing, place in zip((self.first, self.second), places, strict=True):
            group = [rng.choice(SIZES[thing.size]), thing.colour, rng.choice(SHAPES[thing.shape]), place]
            group *= rng.randint(1, 2)  # a thing covers several patches
            rng.shuffle(group)
            groups.append(group)
        rng.shuffle(groups)
        return "".join(f" {word}" for group in groups for word in group)


def _draw_shape(
    canvas: ImageDraw.ImageDraw,
    shape: str,
    x: float,
    y: float,
    radius: float,
    colour: int | tuple[int, ...],
    ground: int | tuple[int, ...],
) -> None:
    """Draws one shape that fits a circle of `radius` around (x, y), all in pixels of the canvas."""
    box = (x - radius, y - radius, x + radius, y + radius)
    if shape == "circle":
        canvas.ellipse(box, fill=colour)
    elif shape == "ring":
        canvas.ellipse(box, fill=colour)
        hole = 0.55 * radius
        canvas.ellipse((x - hole, y - hole, x + hole, y + hole), fill=ground)
    elif shape == "square":
        canvas.rectangle((x - 0.85 * radius, y - 0.85 * radius, x + 0.85 * radius, y + 0.85 * radius), fill=colour)
    elif shape == "triangle":
        canvas.polygon(_corners(x, y, [radius] * 3), fill=colour)
    elif shape == "star":
        canvas.polygon(_corners(x, y, [radius, 0.42 * radius] * 5), fill=colour)
    elif shape == "cross":
        arm = 0.32 * radius
        canvas.rectangle((x - radius, y - arm, x + radius, y + arm), fill=colour)
        canvas.rectangle((x - arm, y - radius, x + arm, y + radius), fill=colour)


def _corners(x: float, y: float, radii: list[float]) -> list[tuple[float, float]]:
    """Corners at equal angles and the given distances around (x, y), the first one on top."""
    angles = (2 * pi * index / len(radii) for index in range(len(radii)))
    return [(x + radius * sin(angle), y - radius * cos(angle)) for radius, angle in zip(radii, angles, strict=True)]


def make_scenes(count: int, kinds: Sequence[Literal["train", "held_out", "text"]], seed: int) -> list[Scene]:
    """`count` random scenes of the given kinds (see `Scene.kind`)."""
    rng = random.Random(f"{' '.join(kinds)} {seed}")
    scenes: list[Scene] = []
    while len(scenes) < count:
        colours, shapes = rng.sample(_COLOUR_NAMES, 2), rng.sample(_SHAPE_NAMES, 2)
        first, second = (
            Thing(rng.choice(list(SIZES)), colour, shape) for colour, shape in zip(colours, shapes, strict=True)
        )
        scene = Scene(first, second, rng.choice(("left", "above")), seed=rng.getrandbits(32))
        if scene.kind in kinds:
            scenes.append(scene)
    return scenes


def language_documents(scenes: Sequence[Scene], seed: int) -> list[str]:
    """
    Text for a language model that is to read a prefix: per scene none to three lines about it, each a caption or
    loose words, then the prompt and a caption.

    The visual tokens later stand where those lines stood. Several lines about one scene teach to copy much faster
    than one does.
    """
    rng = random.Random(seed)
    documents = []
    for scene in scenes:
        lines = [rng.choice((scene.caption, scene.words))(rng) for _ in range(rng.randint(0, 3))]
        documents.append("\n".join([*lines, PROMPT, scene.caption(rng)]))
    return documents


_MEANING = {
    word: (kind, name)
    for kind, names in (("size", SIZES), ("shape", SHAPES), ("colour", {colour: (colour,) for colour in COLOURS}))
    for name, words in names.items()
    for word in words
}
_MEANING |= {phrase.removeprefix("to the ").removesuffix(" of"): ("relation", name)
             for name, phrases in RELATIONS.items() for phrase in phrases}  # fmt: skip


def read_caption(caption: str) -> tuple[list[dict[str, str]], str | None]:
    """
    What a caption states: the attributes of each thing, in the caption's order, and how the first lies to the second.

    A shape's word ends the thing; size and colour words before it belong to it. The relation is `None` where the
    caption gives none. A caption that contradicts itself is taken at its first word.
    """
    things: list[dict[str, str]] = []
    pending: dict[str, str] = {}
    relation = None
    for word in caption.lower().replace(",", " ").replace(".", " ").split():
        kind, name = _MEANING.get(word, (None, None))
        if kind == "relation":
            relation = relation or name
        elif kind is not None:
            pending.setdefault(kind, name)
            if kind == "shape":
                things.append(pending)
                pending = {}
    return things, relation


def attribute_hits(scene: Scene, caption: str) -> dict[str, float]:
    """
    Share of the scene's attributes that the caption states correctly, per kind, each in [0, 1].

    Things may be named in either order: the order that serves the caption better counts. Only the first two things
    count, so that naming everything earns nothing.

    Returns:
        `dict[str, float]`: "colour", "shape", "size" (halves), "relation" (0 or 1) and "all", the share of the seven
        attributes (two colours, two shapes, two sizes, one relation), and "exact", 1 where all seven are right.
    """
    stated, relation = read_caption(caption)
    stated = (stated + [{}, {}])[:2]
    best: dict[str, float] = {}
    true_relation = {(0, 1): scene.relation, (1, 0): OPPOSITE[scene.relation]}
    for order in permutations((0, 1)):
        things = [(scene.first, scene.second)[index] for index in order]
        hits = {
            kind: sum(said.get(kind) == getattr(thing, kind) for said, thing in zip(stated, things, strict=True))
            for kind in ("colour", "shape", "size")
        }
        hits["relation"] = int(relation == true_relation[order])
        shares = {kind: count / (1 if kind == "relation" else 2) for kind, count in hits.items()}
        shares["all"] = sum(hits.values()) / 7
        if not best or shares["all"] > best["all"]:
            best = shares
    return best | {"exact": float(best["all"] == 1)}


def attribute_accuracy(scenes: list[Scene], captions: list[str]) -> dict[str, float]:
    """Mean of `attribute_hits` over scenes and their captions, per kind."""
    hits = [attribute_hits(scene, caption) for scene, caption in zip(scenes, captions, strict=True)]
    return {kind: sum(hit[kind] for hit in hits) / len(hits) for kind in hits[0]}
