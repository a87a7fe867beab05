"""The gates: does the embedded model draw what its captions say, and does its scorer see it?

Pure measuring functions; ``benchmarks/shapes_gates.py`` runs and prints them. Held-out means: a caption that no stage
of the training drew, which can be checked because batches are functions of (seed, step).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from random import Random
from typing import Any

import torch

from postdiff_calib.models.shapes.autoencoder import PatchAutoencoder
from postdiff_calib.models.shapes.drawing import render
from postdiff_calib.models.shapes.world import (
    BACKGROUNDS,
    COLORS,
    RELATIONS,
    SHAPES,
    SIZES,
    SLOT_NAMES,
    Scene,
    edit_scene,
    sample_scene,
)

#: Accuracy that each measured attribute must reach before the weights are shipped.
SCORER_GATE = 0.95
EDITED_GATE = 0.97
GENERATED_GATES = {"background": 0.95, "layout": 0.95, "color": 0.85, "shape": 0.70}
#: What ``shapes-flow`` must reach beyond these: it was trained longer.
FLOW_GATES = {"color": 0.9, "shape": 0.85}
AUTOENCODER_GATE_DB = 28.0


def held_out_scenes(n: int, seed: int, seen: set[str]) -> list[Scene]:
    """n scenes with distinct captions, none of them in ``seen``."""
    rng = Random(f"held-out/{seed}")
    scenes: dict[str, Scene] = {}
    while len(scenes) < n:
        scene = sample_scene(rng)
        if scene.caption() not in seen:
            scenes[scene.caption()] = scene
    return list(scenes.values())


def training_captions(draws: Iterator[list[Scene]]) -> set[str]:
    """The captions of the drawn batches."""
    return {scene.caption() for batch in draws for scene in batch}


def autoencoder_db(autoencoder: PatchAutoencoder, scenes: list[Scene], seed: int) -> float:
    """Peak signal-to-noise ratio of the autoencoder's round trip on true images, in dB."""
    images = render(scenes, seed)
    with torch.no_grad():
        back = autoencoder(images * 2 - 1) / 2 + 0.5
    return float(-10 * torch.log10((back.clamp(0, 1) - images).square().mean()))


def alternatives(scene: Scene, attribute: str, which: int) -> list[Scene]:
    """The scene with one attribute at each of its values, the true scene first.

    Values that would make an object vanish into the background are left out. Empty when the caption does not name the
    attribute (a size that is not given).
    """
    target = scene.objects[which]

    def swap(**change: Any) -> Scene:
        objects = list(scene.objects)
        objects[which] = replace(target, **change)
        return replace(scene, objects=tuple(objects))

    if attribute == "background":
        taken = {o.color for o in scene.objects}
        others = [replace(scene, background=b) for b in BACKGROUNDS if b not in taken and b != scene.background]
    elif attribute == "color":
        others = [swap(color=c) for c in COLORS if c not in (scene.background, target.color)]
    elif attribute == "shape":
        others = [swap(shape=s) for s in SHAPES if s != target.shape]
    elif attribute == "size":
        others = [swap(size=s) for s in SIZES if s != target.size] if target.size else []
    elif attribute == "texture":
        others = [swap(striped=not target.striped)]
    elif scene.relation is None:
        others = [swap(slot=s) for s in SLOT_NAMES if s != target.slot]
    else:
        others = []
        for relation, slots in RELATIONS.items():
            if relation != scene.relation:
                moved = tuple(replace(o, slot=s) for o, s in zip(scene.objects, slots, strict=True))
                others.append(Scene(moved, scene.background, relation))
    return [scene, *others] if others else []


ATTRIBUTES = ("background", "layout", "color", "shape", "size", "texture")


def zero_shot(
    scenes: list[Scene],
    image_features: torch.Tensor,
    encode_text: Callable[[list[str]], torch.Tensor],
    seed: int,
) -> dict[str, float]:
    """Scorer accuracy on true images, each attribute chosen among all its values by caption.

    Args:
        scenes: N scenes.
        image_features: their images' normalised embeddings, (N, D).
        encode_text: captions → normalised embeddings (M, D).
        seed: of the one-attribute edits.

    Returns:
        Accuracy per attribute, and under ``edited`` the share of images that score their caption above a caption
        with one attribute changed.
    """
    rng = Random(f"zero-shot/{seed}")
    right: dict[str, list[bool]] = {name: [] for name in (*ATTRIBUTES, "edited")}
    rows: list[tuple[int, str, int, int]] = []
    captions: list[str] = []
    for i, scene in enumerate(scenes):
        for name in ATTRIBUTES:
            options = alternatives(scene, name, rng.randrange(len(scene.objects)))
            if options:
                rows.append((i, name, len(captions), len(options)))
                captions += [o.caption() for o in options]
        rows.append((i, "edited", len(captions), 2))
        captions += [scene.caption(), edit_scene(scene, rng)[0].caption()]
    text = torch.cat([encode_text(captions[j : j + 512]) for j in range(0, len(captions), 512)])
    for i, name, start, count in rows:
        right[name].append(int((text[start : start + count] @ image_features[i]).argmax()) == 0)
    return {name: sum(values) / len(values) for name, values in right.items()}
