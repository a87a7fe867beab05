"""The loop of mixed-resolution fine-tuning: AdamW, an average of the weights, and a state that goes on bit for bit.

Samples, timesteps and noise are functions of (seed, step, part of the batch), so the state is the trained weights,
their average and the optimizer's moments: one file of safetensors. accelerate brings the device, mixed precision,
gradient accumulation and several processes; each takes its own parts of a batch, and P processes with A parts each do
what one process with P × A parts does.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from safetensors import SafetensorError

from postdiff_calib.errors import PostdiffError, StudyError, UsageError, reason_of
from postdiff_calib.models.listening import quiet
from postdiff_calib.models.shapes import checkpoint
from postdiff_calib.models.tuning.asked import STATE, Tuning
from postdiff_calib.models.tuning.objective import Objective, low_side, mixed_loss
from postdiff_calib.progress import Progress, Silent

if TYPE_CHECKING:
    from postdiff_calib.models.card import Card

#: Projections of attention, which a LoRA adapts in U-Nets and in joint transformers alike.
LORA_TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
#: The running loss covers about so many steps.
_LOSS_STEPS = 50


class Tuner:
    """A denoiser in training.

    Args:
        objective: of the denoiser, whose weights are trained in place.
        tuning: how.
        accelerator: device, precision and processes.
        folder: where the state is kept.
    """

    def __init__(self, objective: Objective, tuning: Tuning, accelerator: Accelerator, folder: Path) -> None:
        self.objective, self.tuning, self.accelerator = objective, tuning, accelerator
        self.path = folder / STATE
        network = objective.network
        network.requires_grad_(tuning.lora_rank == 0)
        if tuning.lora_rank:
            _add_lora(network, tuning)
        self.trained = torch.nn.ParameterList([p for p in network.parameters() if p.requires_grad])
        self.average = torch.nn.ParameterList([p.detach().clone() for p in self.trained]).requires_grad_(False)
        self.optimizer = torch.optim.AdamW(self.trained.parameters(), lr=tuning.rate, weight_decay=tuning.weight_decay)
        self.counters = self._restored() or {"step": 0, "losses": []}

    @property
    def _modules(self) -> dict[str, torch.nn.Module]:
        return {"trained": self.trained, "average": self.average}

    def _restored(self) -> dict[str, Any]:
        """Counters of the state, whose tensors are in place then; empty where there is none.

        Raises:
            StudyError: it is damaged, or of another network.
        """
        try:
            counters = checkpoint.load(self.path, self._modules, self.optimizer)
            if counters:
                int(counters["step"]), [(int(step), float(loss)) for step, loss in counters["losses"]]
        except (SafetensorError, OSError, LookupError, TypeError, ValueError, RuntimeError) as error:
            given, rule = f"state {self.path}", f"it cannot be read ({reason_of(error)})"
            raise StudyError(given, rule, "give another folder (--work), or start anew (--fresh)") from error
        return counters

    @property
    def done(self) -> int:
        """Steps that were made."""
        return int(self.counters["step"])

    @property
    def losses(self) -> list[tuple[int, float]]:
        """Mean loss of each run of about 50 steps, by the step that it ended at."""
        return [(int(step), float(loss)) for step, loss in self.counters["losses"]]

    def run(
        self,
        samples: Any,
        steps: int,
        size: tuple[int, int],
        *,
        workers: int = 0,
        save_every: int = 500,
        progress: Progress | None = None,
    ) -> None:
        """Train until ``steps`` steps are made in all; an interruption leaves the state of the last whole step.

        Args:
            samples: number → image (3, H, W) and caption; numbers from 0 on.
            steps: of the optimizer.
            size: (height, width) in pixels of the smaller images.
            workers: processes that read images ahead.
            save_every: steps between states.
            progress: hears of every step.

        Raises:
            StudyError: the loss is no number any more; the state is then the last one that was saved before.
        """
        progress, a, tuning = progress or Silent(), self.accelerator, self.tuning
        with warnings.catch_warnings():
            # torch would have accelerate name the setting otherwise.
            warnings.filterwarnings("ignore", message=".*broadcast_buffers.*", category=FutureWarning)
            network, optimizer = a.prepare(self.objective.network, self.optimizer)
        network.train()
        progress.stage("fine-tuning", steps - self.done)
        parts = self._parts(samples, steps, workers)
        recent = [torch.tensor(loss, device=a.device) for loss in self.counters.pop("recent", [])]
        whole = True
        try:
            for step in range(self.done, steps):
                for group in self.optimizer.param_groups:
                    group["lr"] = tuning.rate * min(1.0, (step + 1) / max(tuning.warmup, 1))
                loss = torch.zeros((), device=a.device)
                for part in range(tuning.accumulation):
                    with a.accumulate(network):
                        loss = loss + self._backward(network, next(parts), step, part, size)
                        whole = not a.sync_gradients
                        optimizer.step()
                        optimizer.zero_grad()
                self._follow(step)
                recent.append(loss / tuning.accumulation)
                self.counters["step"] = step + 1
                whole = True
                told = (step + 1) % _LOSS_STEPS == 0 or step + 1 == steps
                if told or (step + 1) % save_every == 0:
                    mean = float(a.reduce(torch.stack(recent).mean(), reduction="mean"))
                    if not math.isfinite(mean):
                        whole = False
                        given, rule = f"--rate {tuning.rate:g}", f"the loss is no number at step {step + 1}"
                        raise StudyError(given, rule, "take a smaller one, and start anew (--fresh)")
                if told:
                    self.counters["losses"].append([step + 1, mean])
                    recent = []
                progress.advance(1, detail=f"loss {self.losses[-1][1]:.4f}" if self.losses else None)
                if (step + 1) % save_every == 0:
                    self.save(recent)
        finally:
            if whole:  # else the last state that was written is the one to go on from
                self.save(recent)

    def save(self, recent: Sequence[torch.Tensor] = ()) -> None:
        """Write the state; one process does. ``recent`` are losses whose mean is still to come."""
        if self.accelerator.is_main_process:
            counters = {**self.counters, "recent": [float(loss) for loss in recent]}
            checkpoint.save(self.path, self._modules, self.optimizer, counters)

    def use_average(self) -> None:
        """Put the averaged weights into the denoiser."""
        with torch.no_grad():
            for own, averaged in zip(self.trained, self.average, strict=True):
                own.copy_(averaged)
        self.objective.network.eval()

    def _backward(
        self, network: Any, batch: tuple[torch.Tensor, list[str]], step: int, part: int, size: tuple[int, int]
    ) -> torch.Tensor:
        """Gradients of one part; returns its loss."""
        a, tuning = self.accelerator, self.tuning
        rng = Random(f"{tuning.seed}/{step}/{part * a.num_processes + a.process_index}")
        images, captions = batch
        captions = ["" if rng.random() < tuning.caption_dropout else caption for caption in captions]
        generator = torch.Generator().manual_seed(rng.randrange(2**63))
        schedule = (tuning.low_res_fraction, size)
        with a.autocast():
            loss = mixed_loss(self.objective, network, images.to(a.device), captions, schedule, generator)
        a.backward(loss)
        if a.sync_gradients:
            a.clip_grad_norm_(network.parameters(), 1.0)
        return loss.detach()

    @torch.no_grad()
    def _follow(self, step: int) -> None:
        """One step of the average; early ones weigh more, so that it forgets where it began."""
        keep = min(self.tuning.ema, (step + 1) / (step + 10))
        for averaged, own in zip(self.average, self.trained, strict=True):
            averaged.lerp_(own.detach().to(averaged.dtype), 1 - keep)

    def _parts(self, samples: Any, steps: int, workers: int) -> Iterator[tuple[torch.Tensor, list[str]]]:
        """This process's parts of all batches still to come."""
        a, tuning = self.accelerator, self.tuning
        size = tuning.part(a.num_processes)
        firsts = (
            step * tuning.batch_size + (part * a.num_processes + a.process_index) * size
            for step in range(self.done, steps)
            for part in range(tuning.accumulation)
        )
        numbers = [list(range(first, first + size)) for first in firsts]
        loader = torch.utils.data.DataLoader(
            _Carried(samples), batch_sampler=numbers, num_workers=workers, collate_fn=_collate
        )
        for batch in loader:
            if isinstance(batch, PostdiffError):
                raise batch
            yield batch


class _Carried(torch.utils.data.Dataset[Any]):
    """Samples whose errors are values: what a process that reads ahead raises comes as a RuntimeError of many lines."""

    def __init__(self, samples: Any) -> None:
        self.samples = samples

    def __getitem__(self, number: int) -> Any:
        try:
            return self.samples[number]
        except PostdiffError as error:
            return error


def _collate(rows: list[Any]) -> tuple[torch.Tensor, list[str]] | PostdiffError:
    if (failed := next((row for row in rows if isinstance(row, PostdiffError)), None)) is not None:
        return failed
    images, captions = zip(*rows, strict=True)
    return torch.stack(images), list(captions)


def _add_lora(network: Any, tuning: Tuning) -> None:
    try:
        peft = import_module("peft")
    except ImportError as error:
        raise UsageError("--lora-rank", "it needs peft", "install it: pip install 'postdiff[lora]'") from error
    torch.manual_seed(tuning.seed)  # the one thing that peft draws: its first matrices
    rank = tuning.lora_rank
    network.add_adapter(peft.LoraConfig(r=rank, lora_alpha=rank, target_modules=list(LORA_TARGETS)))


def write_lora(objective: Objective, folder: Path) -> Path:
    """The LoRA as ``--lora`` and diffusers read it; returns its file."""
    from diffusers.utils import convert_state_dict_to_diffusers

    peft = import_module("peft")
    state = convert_state_dict_to_diffusers(peft.get_peft_model_state_dict(objective.network))
    name = "lora.safetensors"
    layers = {f"{objective.role}_lora_layers": {key: value.contiguous() for key, value in state.items()}}
    type(objective.pipe).save_lora_weights(folder, weight_name=name, **layers)
    return folder / name


def write_pipeline(objective: Objective, folder: Path) -> Path:
    """The whole pipeline in float16 safetensors; returns its folder."""
    from postdiff_calib.models.shapes.exporting import save_pipeline

    for part in objective.pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.half()
    with quiet():
        save_pipeline(objective.pipe, folder)
    return folder


def accelerator_for(device: str, accumulation: int) -> Accelerator:
    """accelerate's view of this process, in bfloat16 on a GPU that has it, and wherever the launcher asks for it.

    Args:
        device: ``auto`` or a torch device; with several processes accelerate picks each one's own.
        accumulation: parts of a batch.

    Raises:
        UsageError: the launcher asks for another type.
    """
    asked = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if asked not in ("no", "bf16"):
        raise UsageError(f"--mixed_precision {asked}", "it trains in float32 or bfloat16", "take bf16, or leave it out")
    cpu = device == "cpu" or (device == "auto" and not torch.cuda.is_available())
    bf16 = not cpu and torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    # How often the network runs in a step differs between processes, where all of a part's images may be of one size,
    # so nothing may be sent round with each run; buffers do not change in training.
    alone = DistributedDataParallelKwargs(broadcast_buffers=False)
    return Accelerator(
        cpu=cpu,
        mixed_precision="bf16" if bf16 or asked == "bf16" else "no",
        gradient_accumulation_steps=accumulation,
        kwargs_handlers=[alone],
    )


def side_of(card: Card, tuning: Tuning) -> tuple[int, int]:
    """(height, width) in pixels of the smaller images; the full ones where s = 0."""
    return low_side(card, tuning.low_res_scale) if tuning.low_res_fraction > 0 else (card.height, card.width)
