"""Networks without weights: built on torch's meta device from a configuration, and the inputs they are called with.

On the meta device tensors have shapes and no storage, so the full-size network of SDXL is built and called in about a
second. Inputs are those that the stock pipelines pass (diffusers 0.42): shapes matter here, values do not.

Symbols: B batch, C latent channels, (h, w) latent size, L text tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from postdiff_calib.errors import UnsupportedError
from postdiff_calib.models.families import Call, denoiser_of


def build(config: Mapping[str, Any]) -> Any:
    """The network of a configuration, on the meta device, ready for inference.

    Args:
        config: with ``_class_name`` (diffusers) or ``architectures`` and ``model_type`` (transformers).

    Raises:
        UnsupportedError: a class that is neither library's nor ours.
    """
    import diffusers
    import torch
    import transformers

    values = dict(config)
    name = values.get("_class_name") or (values.get("architectures") or ["?"])[0]
    with torch.device("meta"):
        if name == "PatchAutoencoder":
            from postdiff_calib.models.shapes.autoencoder import PatchAutoencoder

            network: Any = PatchAutoencoder.from_config(values)
        elif name == "AbsentTextEncoder":
            from postdiff_calib.models.shapes.absent_text import AbsentTextEncoder

            network = AbsentTextEncoder.from_config(values)
        elif "_class_name" in values and hasattr(diffusers, name):
            # Transformer2DModel is how PixArt's network was called before it had a class.
            network = getattr(diffusers, name).from_config(values)
        elif "model_type" in values and hasattr(transformers, name):
            values.pop("architectures")
            network = getattr(transformers, name)(transformers.AutoConfig.for_model(values.pop("model_type"), **values))
        else:
            raise UnsupportedError(
                f"network class {name!r}", "its cost cannot be counted", "take a stock diffusers model"
            )
    return network.eval()


def denoiser_inputs(
    config: Mapping[str, Any], batch: int, height: int, width: int, text_length: int, device: str = "meta"
) -> dict[str, Any]:
    """Keyword arguments of one denoiser call: sample (B, C, h, w), text (B, L, width) and the model's own conditions.

    Raises:
        UnsupportedError: a denoiser of no supported family.
    """
    import torch

    def zeros(*shape: int, dtype: str | None = None) -> torch.Tensor:
        return torch.zeros(shape, device=device, dtype=getattr(torch, dtype) if dtype else None)

    call = Call(batch, height, width, text_length)
    return denoiser_of(config["_class_name"]).inputs(config, call, zeros)


def control_inputs(config: Mapping[str, Any], batch: int, height: int, width: int, text_length: int) -> dict[str, Any]:
    """Keyword arguments of one call of a control network beside a U-Net, on the meta device; sizes are the latent's."""
    import torch

    from postdiff_calib.models.families import unet

    def zeros(*shape: int, dtype: str | None = None) -> torch.Tensor:
        return torch.zeros(shape, device="meta", dtype=getattr(torch, dtype) if dtype else None)

    return unet.control_inputs(config, Call(batch, height, width, text_length), zeros)


def text_inputs(batch: int, text_length: int, device: str = "meta") -> dict[str, Any]:
    """Keyword arguments of a text encoder: token numbers (B, L)."""
    import torch

    return {"input_ids": torch.ones((batch, text_length), device=device, dtype=torch.int64)}


def is_guided_by_batch(config: Mapping[str, Any], guidance_scale: float) -> bool:
    """Whether guidance doubles the batch: it is on, and not an input of the network as in LCM."""
    kind = denoiser_of(config["_class_name"])
    return kind.guides_by_default and guidance_scale > kind.guided_above and not kind.embeds_guidance(config)
