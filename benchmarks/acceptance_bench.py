"""What the sections of ``gpu_acceptance.py`` share: models, calls, a clock, and where their rows go."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from random_models import Size, build, card_of, miniature

from postdiff_calib.accelerate import accelerated
from postdiff_calib.cost import CostTable, table_for_card
from postdiff_calib.cost.timeline import Clock
from postdiff_calib.knobs import Knobs, names, settled
from postdiff_calib.models.load import LoadedModel
from postdiff_calib.plan import compile_plan

PROMPTS = ("a red circle", "a large blue square", "red on green")
LOW = {"low_res_fraction": 0.5, "low_res_scale": 0.5}


def settings(steps: int) -> dict[str, Knobs]:
    """The techniques one by one and together, at T = ``steps``."""
    return {
        "neutral": Knobs(steps),
        "k=2": Knobs(steps, cache_interval=2),
        "m=.75": Knobs(steps, guidance_fraction=0.75),
        "s=.5 β=.5": Knobs(steps, **LOW),
        "all": Knobs(steps, cache_interval=2, guidance_fraction=0.75, **LOW),
    }


def suited(loaded: LoadedModel, knobs: Knobs) -> Knobs:
    """The same for a model without cross-attention: nothing of it is cached."""
    return settled(knobs.chosen(), knobs.num_inference_steps, names() - loaded.card.knobs)


@dataclass(frozen=True)
class Timed:
    """Seconds of one call: its denoising loop and the whole, by the device's clock, and the whole by the host's."""

    loop: float
    whole: float
    host: float


@dataclass
class Bench:
    """A device, the models that were built on it, and the rows of the section that runs.

    Attributes:
        device: where models are built.
        tiny: miniatures in place of full sizes.
        deadline: ``time.monotonic()`` after which nothing more is begun.
        write: is called after every row.
        models, tables: what was built, and prices in MACs.
    """

    device: str
    tiny: bool
    deadline: float
    write: Callable[[], None] = lambda: None
    rows: list[dict[str, Any]] = field(default_factory=list)
    models: dict[Any, LoadedModel] = field(default_factory=dict)
    tables: dict[str, CostTable] = field(default_factory=dict)

    @property
    def on_gpu(self) -> bool:
        """The device is a CUDA GPU."""
        return self.device.startswith("cuda")

    @property
    def steps(self) -> int:
        """Denoising steps of a call that is compared or counted."""
        return 4 if self.tiny else 8

    @property
    def timed_steps(self) -> int:
        """Denoising steps of a call that is timed."""
        return 4 if self.tiny else 20

    @property
    def left(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - time.monotonic()

    def note(self, **row: Any) -> None:
        """Add a row to the running section and write the file."""
        self.rows.append(row)
        self.write()

    def model(self, size: Size, dtype: str = "bfloat16") -> LoadedModel:
        """A model, built when it is first asked for.

        Raises:
            UnsupportedError: it cannot be built, with the reason.
        """
        key = size, dtype
        if key not in self.models:
            card = card_of(size)
            # The same network at another size is not built twice.
            twins = [known for (other, kind), known in self.models.items() if (other.card, kind) == (size.card, dtype)]
            if twins and not self.tiny:
                self.models[key] = twin(twins[0], size)
            else:
                self.models[key] = build(miniature(card) if self.tiny else card, self.device, dtype)
        return self.models[key]

    @property
    def free(self) -> int | None:
        """Bytes of the device's memory that a further model may take; None where nobody knows."""
        if not self.on_gpu:
            return None
        self.empty()
        return int(torch.cuda.mem_get_info(self.device)[0])

    def macs(self, loaded: LoadedModel, knobs: Knobs) -> float:
        """MACs of the denoising loop for one image, convention ``full``."""
        card, key = loaded.card, loaded.fingerprint
        if key not in self.tables:
            self.tables[key] = table_for_card(card, height=card.height, width=card.width)
        return self.tables[key].price(compile_plan(knobs)).macs

    def forget(self) -> None:
        """Free all models."""
        self.models.clear()
        self.empty()

    def empty(self) -> None:
        """Give memory that nobody uses back to the device."""
        gc.collect()
        if self.on_gpu:
            torch.cuda.empty_cache()

    def latents(self, loaded: LoadedModel, knobs: Knobs | None, steps: int, batch: int = 1, **more: Any) -> Any:
        """Final latents of one call: the stock pipeline's (``knobs`` None) or accelerated."""
        call = call_of(loaded, batch) | more
        with torch.inference_mode():
            if knobs is None:
                return loaded.pipe(num_inference_steps=steps, **call).images
            with accelerated(loaded.pipe, knobs, strict=False):
                return loaded.pipe(**call).images

    def timed(self, loaded: LoadedModel, call: Callable[[], Any]) -> Timed:
        """Time one call of a pipeline; the loop begins with the denoiser's first call."""
        clock, marks = Clock(loaded.device), []
        network = getattr(loaded.pipe, loaded.card.denoiser_role)

        def first(*_: Any) -> None:
            if not marks:
                marks.append(clock.mark())

        handle = network.register_forward_pre_hook(first, prepend=True)
        try:
            clock.synchronize()
            begin, start = time.perf_counter(), clock.mark()
            call()
            end = clock.mark()
            clock.synchronize()
            host = time.perf_counter() - begin
        finally:
            handle.remove()
        return Timed(clock.between(marks[0], end), clock.between(start, end), host)


def twin(loaded: LoadedModel, size: Size) -> LoadedModel:
    """The same pipeline for images of another size."""
    card = replace(loaded.card, height=size.side, width=size.side)
    return replace(loaded, card=card, fingerprint=f"{loaded.fingerprint}-{size.side}")


def call_of(loaded: LoadedModel, batch: int = 1) -> dict[str, Any]:
    """Arguments of one call for final latents; a seed for each image."""
    return {
        "prompt": [PROMPTS[i % len(PROMPTS)] for i in range(batch)],
        "generator": [torch.Generator("cpu").manual_seed(7 + i) for i in range(batch)],
        "height": loaded.card.height,
        "width": loaded.card.width,
        "guidance_scale": loaded.card.guidance_scale,
        "output_type": "latent",
    }


def difference(ours: Any, reference: Any) -> dict[str, Any]:
    """Whether two tensors are equal bit for bit, their largest difference, and the largest value for scale."""
    gap = (ours.float() - reference.float()).abs().max()
    return {
        "bitwise": torch.equal(ours, reference),
        "max_difference": float(gap),
        "largest_value": float(reference.float().abs().max()),
    }
