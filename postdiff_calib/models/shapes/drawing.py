"""Images of scenes: anti-aliased signed-distance shapes, drawn in batches at any side.

Symbols: B images, N_OBJECTS = 2 object places, S = side in pixels.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from postdiff_calib.models.shapes.world import N_OBJECTS, PALETTE, SHAPES, SIDE, SIZES, SLOTS, Scene

if TYPE_CHECKING:
    import torch

_STRIPE_PERIOD = 6.5
_STRIPE_DARKENING = 0.35


def render(scenes: list[Scene], seed: int, side: int = SIDE) -> torch.Tensor:
    """Draw one random image per scene.

    Args:
        scenes: B scenes.
        seed: fixes everything the captions leave open.
        side: image side in pixels, S ≥ 8.

    Returns:
        float32 tensor of shape (B, 3, S, S) in [0, 1].
    """
    import torch

    g = torch.Generator().manual_seed(seed)
    b = len(scenes)

    def rand(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=g)

    present = torch.zeros(b, N_OBJECTS, dtype=torch.bool)
    center = torch.zeros(b, N_OBJECTS, 2)
    bounds = torch.zeros(b, N_OBJECTS, 2)
    color = torch.zeros(b, N_OBJECTS, 3)
    shape = torch.zeros(b, N_OBJECTS, dtype=torch.long)
    striped = torch.zeros(b, N_OBJECTS, dtype=torch.bool)
    background = torch.tensor([PALETTE[s.background] for s in scenes])
    any_size = (SIZES["small"][0], SIZES["large"][1])
    for i, scene in enumerate(scenes):
        for j, o in enumerate(scene.objects):
            present[i, j] = True
            center[i, j] = torch.tensor(SLOTS[o.slot])
            bounds[i, j] = torch.tensor(SIZES[o.size] if o.size else any_size)
            color[i, j] = torch.tensor(PALETTE[o.color])
            shape[i, j] = SHAPES.index(o.shape)
            striped[i, j] = o.striped
    # Two objects leave each other room along their axis (|displacement| ≤ 1.5) and wander across it (≤ 5).
    wander = torch.full((b, N_OBJECTS, 2), 3.0)
    pair = present[:, 1]
    vertical = pair & ((center[:, 0, 1] - center[:, 1, 1]).abs() > 1)
    horizontal = pair & ~vertical
    wander[vertical] = torch.tensor([5.0, 1.5])
    wander[horizontal] = torch.tensor([1.5, 5.0])
    center = center + (2 * rand(b, N_OBJECTS, 2) - 1) * wander
    radius = bounds[..., 0] + (bounds[..., 1] - bounds[..., 0]) * rand(b, N_OBJECTS)
    angle = (2 * rand(b, N_OBJECTS) - 1) * math.radians(14)
    phase = rand(b, N_OBJECTS) * _STRIPE_PERIOD
    color = (color + 0.05 * (2 * rand(b, N_OBJECTS, 3) - 1)).clamp(0, 1)
    background = (background + 0.05 * (2 * rand(b, 3) - 1)).clamp(0, 1)

    scale = SIDE / side
    axis = (torch.arange(side) + 0.5) * scale
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    image = background[:, :, None, None].expand(b, 3, side, side).clone()
    for j in range(N_OBJECTS):
        for index in range(len(SHAPES)):
            rows = torch.nonzero(present[:, j] & (shape[:, j] == index)).flatten()
            if not len(rows):
                continue
            px = x - center[rows, j, 0, None, None]
            py = y - center[rows, j, 1, None, None]
            c, s = angle[rows, j].cos()[:, None, None], angle[rows, j].sin()[:, None, None]
            distance = _signed_distance(SHAPES[index], c * px + s * py, c * py - s * px, radius[rows, j][:, None, None])
            alpha = (0.5 - distance / scale).clamp(0, 1)[:, None]
            wave = torch.remainder(py + phase[rows, j][:, None, None], _STRIPE_PERIOD) - _STRIPE_PERIOD / 2
            dark = (0.5 + (wave.abs() - _STRIPE_PERIOD / 4) / scale).clamp(0, 1)
            dark = dark * striped[rows, j].float()[:, None, None]
            paint = color[rows, j][:, :, None, None] * (1 - (1 - _STRIPE_DARKENING) * dark)[:, None]
            image[rows] = image[rows] * (1 - alpha) + paint * alpha
    return image


def _signed_distance(shape: str, x: torch.Tensor, y: torch.Tensor, r: torch.Tensor) -> torch.Tensor:
    """Signed distance (canvas pixels, negative inside) of the points (x, y) to a shape of radius r at the origin."""
    import torch

    if shape == "circle":
        return torch.hypot(x, y) - 0.95 * r
    if shape == "ring":
        return (torch.hypot(x, y) - 0.72 * r).abs() - 0.26 * r
    if shape == "square":
        return torch.maximum(x.abs(), y.abs()) - 0.85 * r
    if shape == "cross":
        upright = torch.maximum(x.abs() - 0.30 * r, y.abs() - r)
        return torch.minimum(upright, torch.maximum(x.abs() - r, y.abs() - 0.30 * r))
    if shape == "triangle":
        # Three half-planes at the same distance from the centroid, which is moved down by a quarter radius.
        down = y - 0.25 * r
        return torch.maximum(down - 0.5 * r, 0.5 * (math.sqrt(3.0) * x.abs() - down) - 0.5 * r)
    # star: fold the plane onto one of the five arms, then the half-plane of the arm's edge
    angle = torch.atan2(x, -y)
    arm = torch.remainder(angle + math.pi / 5, 2 * math.pi / 5) - math.pi / 5
    length = torch.hypot(x, y)
    u, v = length * arm.cos(), length * arm.sin().abs()
    tip, notch = 1.08 * r, 0.46 * r
    nx, ny = notch * math.cos(math.pi / 5) - tip, notch * math.sin(math.pi / 5) * torch.ones_like(tip)
    norm = torch.hypot(nx, ny)
    return ((u - tip) * ny - v * nx) / norm
