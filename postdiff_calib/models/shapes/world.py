"""The world of the embedded model: captions of coloured shapes, and images drawn from them.

A caption names one object (optionally placed) or two objects with a relation, always on a background::

    a [small|large] [striped] COLOR SHAPE [at the top|bottom|left|right] on a COLOR background
    a ... COLOR SHAPE above|below|to the left of|to the right of a ... COLOR SHAPE on a COLOR background

("an" before "orange").

What a caption leaves open (exact position, rotation, stripe phase, shade, the size when no size is named) is drawn
at random, so an image is a sample, not a function of its caption. Images are anti-aliased signed-distance shapes,
rendered (``drawing``) in batches at any side: coordinates are in units of a 64-pixel canvas.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random

#: Canvas side that coordinates refer to, and the default side of an image, in pixels.
SIDE = 64

#: RGB in [0, 1]. Objects take any of the first eight; backgrounds take any of the ten.
PALETTE: dict[str, tuple[float, float, float]] = {
    "red": (0.86, 0.12, 0.14),
    "orange": (0.97, 0.53, 0.09),
    "yellow": (0.97, 0.90, 0.16),
    "green": (0.14, 0.62, 0.22),
    "cyan": (0.25, 0.83, 0.87),
    "blue": (0.12, 0.24, 0.84),
    "purple": (0.53, 0.18, 0.66),
    "white": (0.97, 0.97, 0.97),
    "gray": (0.52, 0.52, 0.52),
    "black": (0.05, 0.05, 0.05),
}
BACKGROUNDS: tuple[str, ...] = tuple(PALETTE)
COLORS: tuple[str, ...] = BACKGROUNDS[:8]
SHAPES: tuple[str, ...] = ("circle", "square", "triangle", "star", "cross", "ring")
#: Radius ranges in canvas pixels; an object without a size word takes any radius from the smallest to the largest.
SIZES: dict[str, tuple[float, float]] = {"small": (6.5, 8.5), "large": (11.5, 13.5)}
TEXTURES: tuple[str, ...] = ("plain", "striped")
#: Where an object's centre lies (x to the right, y downwards), before the random displacement.
SLOTS: dict[str, tuple[float, float]] = {
    "center": (32.0, 32.0),
    "top": (32.0, 17.0),
    "bottom": (32.0, 47.0),
    "left": (17.0, 32.0),
    "right": (47.0, 32.0),
}
#: relation words → (slot of the first object, slot of the second)
RELATIONS: dict[str, tuple[str, str]] = {
    "above": ("top", "bottom"),
    "below": ("bottom", "top"),
    "to the left of": ("left", "right"),
    "to the right of": ("right", "left"),
}
SLOT_NAMES: tuple[str, ...] = tuple(SLOTS)
#: Every word a caption can hold, in the order of the tokenizer's training list.
WORDS: tuple[str, ...] = (
    *("a", "an", "on", "at", "the", "of", "to", "background", "above", "below", "small", "large", "striped"),
    *("top", "bottom", "left", "right"),
    *BACKGROUNDS,
    *SHAPES,
)
N_OBJECTS = 2


@dataclass(frozen=True)
class Object:
    """One object of a caption; ``size`` is ``None`` when the caption names none."""

    color: str
    shape: str
    slot: str
    size: str | None = None
    striped: bool = False

    def phrase(self) -> str:
        """The noun phrase, e.g. ``a large striped red circle``."""
        words = [self.size, "striped" if self.striped else None, self.color, self.shape]
        return _with_article(" ".join(w for w in words if w))


@dataclass(frozen=True)
class Scene:
    """What a caption says: one or two objects and a background; ``relation`` is set exactly when there are two."""

    objects: tuple[Object, ...]
    background: str
    relation: str | None = None

    def caption(self) -> str:
        """The one caption of this scene."""
        first = self.objects[0]
        tail = f" on {_with_article(self.background)} background"
        if self.relation is not None:
            return f"{first.phrase()} {self.relation} {self.objects[1].phrase()}{tail}"
        place = "" if first.slot == "center" else f" at the {first.slot}"
        return f"{first.phrase()}{place}{tail}"


def _with_article(phrase: str) -> str:
    return f"an {phrase}" if phrase[0] in "aeiou" else f"a {phrase}"


def sample_scene(rng: Random) -> Scene:
    """Draw a scene: two thirds have two objects; colours of objects differ from the background."""
    background = rng.choice(BACKGROUNDS)
    colors = [c for c in COLORS if c != background]

    def draw(slot: str) -> Object:
        return Object(
            color=rng.choice(colors),
            shape=rng.choice(SHAPES),
            slot=slot,
            size=rng.choice((None, "small", "large")),
            striped=rng.random() < 0.25,
        )

    if rng.random() < 1 / 3:
        return Scene((draw(rng.choice(SLOT_NAMES)),), background)
    relation = rng.choice(tuple(RELATIONS))
    slots = RELATIONS[relation]
    return Scene((draw(slots[0]), draw(slots[1])), background, relation)


def parse_caption(caption: str) -> Scene:
    """Read a caption of the grammar back into its scene.

    Raises:
        ValueError: the caption is not of the grammar; the message names the word.
    """
    words = caption.split()
    at = 0

    def take(options: tuple[str, ...], what: str, optional: bool = False) -> str | None:
        nonlocal at
        for option in options:
            n = len(option.split())
            if words[at : at + n] == option.split():
                at += n
                return option
        if optional:
            return None
        found = words[at] if at < len(words) else "the end"
        raise ValueError(f"caption {caption!r}: expected {what} at {found!r}")

    def phrase() -> Object:
        take(("a", "an"), "'a' or 'an'")
        size = take(tuple(SIZES), "a size", optional=True)
        striped = take(("striped",), "a texture", optional=True)
        color = take(COLORS, f"a colour ({', '.join(COLORS)})")
        shape = take(SHAPES, f"a shape ({', '.join(SHAPES)})")
        assert color is not None
        assert shape is not None
        return Object(color, shape, "center", size, striped is not None)

    objects = [phrase()]
    relation = take(tuple(RELATIONS), "a relation", optional=True)
    if relation is not None:
        slots = RELATIONS[relation]
        objects = [replace(objects[0], slot=slots[0]), replace(phrase(), slot=slots[1])]
    elif take(("at the",), "a place", optional=True):
        slot = take(SLOT_NAMES[1:], f"a place ({', '.join(SLOT_NAMES[1:])})")
        assert slot is not None
        objects = [replace(objects[0], slot=slot)]
    take(("on a", "on an"), "'on a'")
    background = take(BACKGROUNDS, f"a background ({', '.join(BACKGROUNDS)})")
    take(("background",), "'background'")
    if at != len(words):
        raise ValueError(f"caption {caption!r}: unexpected {words[at]!r}")
    assert background is not None
    return Scene(tuple(objects), background, relation)


def edit_scene(scene: Scene, rng: Random) -> tuple[Scene, str]:
    """Change exactly one attribute of the scene; returns the edited scene and the attribute's name.

    The attribute is one of ``background``, ``color``, ``shape``, ``size``, ``texture``, ``layout``. A size or texture
    is only flipped to another *named* value where that contradicts the image (an unnamed size is left alone).
    """
    which = rng.randrange(len(scene.objects))
    target = scene.objects[which]
    kinds = ["background", "color", "color", "shape", "shape", "texture", "layout"]
    if target.size is not None:
        kinds.append("size")
    kind = rng.choice(kinds)

    def with_object(new: Object) -> Scene:
        objects = list(scene.objects)
        objects[which] = new
        return replace(scene, objects=tuple(objects))

    if kind == "background":
        used = {scene.background, *(o.color for o in scene.objects)}
        return replace(scene, background=rng.choice([b for b in BACKGROUNDS if b not in used])), kind
    if kind == "color":
        options = [c for c in COLORS if c not in (target.color, scene.background)]
        return with_object(replace(target, color=rng.choice(options))), kind
    if kind == "shape":
        return with_object(replace(target, shape=rng.choice([s for s in SHAPES if s != target.shape]))), kind
    if kind == "size":
        return with_object(replace(target, size="small" if target.size == "large" else "large")), kind
    if kind == "texture":
        return with_object(replace(target, striped=not target.striped)), kind
    if scene.relation is None:
        slot = rng.choice([s for s in SLOT_NAMES if s != target.slot])
        return with_object(replace(target, slot=slot)), kind
    relation = rng.choice([r for r in RELATIONS if r != scene.relation])
    slots = RELATIONS[relation]
    moved = tuple(replace(o, slot=s) for o, s in zip(scene.objects, slots, strict=True))
    return Scene(moved, scene.background, relation), kind


# --- codes: a scene as integers, for classifier heads -----------------------------------------------------------------

#: Heads of a scene code: per slot the colour, shape, size and texture (0 = no object there), then the background.
CODE_SIZES: dict[str, int] = {
    "color": len(COLORS) + 1,
    "shape": len(SHAPES) + 1,
    "size": len(SIZES) + 1,
    "texture": len(TEXTURES) + 1,
}
IGNORE = -100


def scene_code(scene: Scene) -> list[int]:
    """Integers that describe a scene: for each of the 5 slots (colour, shape, size, texture), then the background.

    0 says the slot is empty; an unnamed size is ``IGNORE`` (the value that ``cross_entropy`` skips).
    Length: 5 · 4 + 1 = 21.
    """
    code: list[int] = []
    by_slot = {o.slot: o for o in scene.objects}
    for slot in SLOT_NAMES:
        o = by_slot.get(slot)
        if o is None:
            code += [0, 0, 0, 0]
            continue
        size = IGNORE if o.size is None else 1 + tuple(SIZES).index(o.size)
        code += [1 + COLORS.index(o.color), 1 + SHAPES.index(o.shape), size, 1 + int(o.striped)]
    code.append(BACKGROUNDS.index(scene.background))
    return code


CODE_HEADS: tuple[int, ...] = (*(tuple(CODE_SIZES.values()) * len(SLOT_NAMES)), len(BACKGROUNDS))
