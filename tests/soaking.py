"""Many calls of all kinds through one enabled pipeline: it must neither grow nor remember.

Each call draws knobs or a profile, prompts, a size, a number of images and a seed. Some calls break off in the middle,
some ask for what is refused. Images are compared with those of a fresh pipeline of the same weights that makes one call
only. Between them a fixed call brings the pipeline into one state, in which tensors and hooks are counted.
"""

from __future__ import annotations

import gc
import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pipelines as P
import torch
from profiles import profile_for

from postdiff_calib.accelerate import disable, enable
from postdiff_calib.errors import PostdiffError
from postdiff_calib.knobs import Knobs
from postdiff_calib.techniques.expansion import band_matrix
from postdiff_calib.techniques.mixed_resolution import pooling_matrix

SIZES = ((128, 128), (64, 64), (128, 64), (64, 128), (96, 128))
NOISES = ("complement", "coupled", "independent")
WORDS = ("a", "red", "blue", "green", "cat", "on", "above", "small", "")
_FIXED = Knobs(4, 0.5, 0.5, 2, 0.75)


class BrokenOffError(Exception):
    """What a call that breaks off raises."""


@dataclass(frozen=True)
class Asked:
    """One call.

    Attributes:
        knobs: enabled for it; the pipeline keeps those before where None.
        profile: they come in a profile, which then says size and guidance.
        noise: of low-resolution steps.
        prompts: as many as images.
        size: height and width in pixels.
        seed: of the first image.
        output: latents or decoded images.
        breaks: the step in which the call raises; None for a call that ends.
    """

    knobs: Knobs | None
    profile: bool
    noise: str
    prompts: tuple[str, ...]
    size: tuple[int, int]
    seed: int
    output: str
    breaks: int | None


def draw(chance: random.Random) -> Asked:
    """A call at random."""
    knobs = Knobs(
        num_inference_steps=chance.randint(2, 5),
        low_res_fraction=chance.choice((0.0, 0.34, 0.5, 0.75)),
        low_res_scale=chance.choice((0.5, 0.75)),
        cache_interval=chance.choice((1, 1, 2, 3)),
        guidance_fraction=chance.choice((1.0, 1.0, 0.5, 0.75)),
        cache_branch=chance.choice((0, 0, 1)),
        cross_attention_cache=chance.choice(("cond", "mean", "off")),
    )
    count = chance.randint(1, 3)
    return Asked(
        knobs=None if chance.random() < 0.2 else knobs,
        profile=chance.random() < 0.25,
        noise=chance.choice(NOISES),
        prompts=tuple(" ".join(chance.choices(WORDS, k=chance.randint(0, 3))) for _ in range(count)),
        size=chance.choice(SIZES),
        seed=chance.randrange(1000),
        output=chance.choice(("latent", "latent", "pt")),
        breaks=chance.randint(0, 3) if chance.random() < 0.1 else None,
    )


class Soak:
    """One pipeline of a family, enabled all the time.

    Args:
        name: of ``pipelines.FAMILIES``.
        seed: of the calls.

    Attributes:
        done: how many calls ended, were refused and broke off.
        seen: what was enabled and asked, with a hash of the images, of every call that ended.
    """

    def __init__(self, name: str, seed: int = 0) -> None:
        self.name = name
        self.pipe = self._build()
        self._stock("pt")  # a decoder may keep attributes of its own from its first call on
        self.before = self._stock()
        self.fingerprint = P.fingerprint(self.pipe)
        self.done = {"ended": 0, "refused": 0, "broke off": 0}
        self.seen: list[tuple[Asked, Asked, str]] = []
        self._chance = random.Random(f"{name} {seed}")
        self._enabled = Asked(_FIXED, False, NOISES[0], ("a red circle",), SIZES[0], 0, "latent", None)
        self._enable(self.pipe, self._enabled)

    def _build(self) -> Any:
        return P.FAMILIES[self.name][0]()

    def _stock(self, output: str = "latent") -> torch.Tensor:
        """Images of the pipeline as it is without postdiff."""
        one = Asked(None, False, NOISES[0], ("red",), SIZES[0], 1, output, None)
        return self._make(self.pipe, one, num_inference_steps=2)

    def _enable(self, pipe: Any, asked: Asked) -> None:
        assert asked.knobs is not None
        knobs = P.suited(pipe, asked.knobs)
        if asked.profile:
            enable(pipe, profile_for(pipe, knobs))
        else:
            enable(pipe, knobs, noise=asked.noise)

    def _make(self, pipe: Any, asked: Asked, sized: bool = True, **more: Any) -> torch.Tensor:
        count = len(asked.prompts)
        size = dict(zip(("height", "width"), asked.size, strict=True)) if sized else {}
        call = P.of_images({**P.FAMILIES[self.name][1], **size, **more}, count)
        if "image" in call:
            call["image"] = P.condition_image(count, *(asked.size if sized else SIZES[0]))
        if asked.breaks is not None:
            call["callback_on_step_end"] = _breaking(asked.breaks)
        made = pipe(
            list(asked.prompts), generator=P.generators(count, asked.seed), output_type=asked.output, **call
        ).images
        return made if isinstance(made, torch.Tensor) else torch.stack(list(made))

    def run(self, calls: int) -> Iterator[int]:
        """So many calls; yields the number of each once it is done."""
        for number in range(calls):
            self._one(draw(self._chance))
            yield number

    def _one(self, asked: Asked) -> None:
        try:
            if asked.knobs is not None:
                self._enable(self.pipe, asked)
                self._enabled = asked
            made = self._make(self.pipe, asked, sized=not self._enabled.profile)
        except PostdiffError:
            self.done["refused"] += 1
        except BrokenOffError:
            self.done["broke off"] += 1
        else:
            self.done["ended"] += 1
            self.seen.append((self._enabled, asked, hash_of(made)))

    def counts(self) -> dict[str, int]:
        """Live tensors and hooks in the state after a fixed call."""
        before = self._enabled
        fixed = Asked(_FIXED, False, NOISES[0], ("a red circle",), SIZES[0], 0, "latent", None)
        self._enable(self.pipe, fixed)
        self._make(self.pipe, fixed)
        for matrix in (pooling_matrix, band_matrix):  # each remembers those of 64 sizes, not more
            matrix.cache_clear()
        gc.collect()
        tensors = [found for found in gc.get_objects() if issubclass(type(found), torch.Tensor)]
        found = {
            "tensors": len(tensors),
            "tensor_bytes": sum(t.numel() * t.element_size() for t in tensors),
            "hooks": sum(sum(facts[2]) for facts in P.fingerprint(self.pipe).values() if len(facts) == 4),
        }
        del tensors
        self._enable(self.pipe, before)
        return found

    def other_images(self, share: float = 1.0) -> tuple[int, list[Asked]]:
        """Make a share of the calls again, each on a fresh pipeline; how many, and those with other images."""
        chance, different, checked = random.Random(self.name), [], 0
        for enabled, asked, images in self.seen:
            if chance.random() < share:
                checked += 1
                fresh = self._build()
                self._enable(fresh, enabled)
                if hash_of(self._make(fresh, asked, sized=not enabled.profile)) != images:
                    different.append(asked)
        return checked, different

    def restored(self) -> bool:
        """Disable the pipeline: whether nothing is left on it, and its images are the stock ones."""
        disable(self.pipe)
        return P.fingerprint(self.pipe) == self.fingerprint and torch.equal(self._stock(), self.before)


def _breaking(at: int) -> Any:
    def callback(pipe: Any, step: int, timestep: Any, given: dict[str, Any]) -> dict[str, Any]:
        if step >= at:
            raise BrokenOffError
        return given

    return callback


def hash_of(images: torch.Tensor) -> str:
    """A hash of shape and every bit."""
    raw = images.detach().contiguous()
    assert torch.isfinite(raw).all()
    return hashlib.sha256(str(tuple(raw.shape)).encode() + raw.numpy().tobytes()).hexdigest()


def resident() -> int:
    """Bytes of this process in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096
