"""What a pipeline family states: everything that differs between pipeline classes, as data and small functions.

A ``Denoiser`` describes a class of network, a ``Family`` one pipeline class that calls such a network once per step.
Nothing of torch or diffusers is imported: networks and tensors are handled through their own attributes.

Symbols: B batch, C latent channels, (h, w) latent size, L text tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

#: How a pipeline holds its latents: (B, C, h, w); (B, h/2 · w/2, 4C) tokens; or a list of (C, 1, h, w) per image.
LatentLayout = Literal["spatial", "packed", "list"]
#: Where guidance's two halves are: one batch [unconditional, conditional] or the other way round, one call for each
#: (the conditional first), a scale that is an input of the network, or no guidance at all.
Guidance = Literal["unconditional first", "conditional first", "two calls", "embedded", "none"]
#: What a block of a chain hands on: the image's hidden states alone, or with the text's in front of or behind them.
BlockOutput = Literal["hidden", "encoder, hidden", "hidden, encoder"]

Zeros = Callable[..., Any]
Resized = Callable[[Mapping[str, Any], tuple[int, int], tuple[int, int]], dict[str, Any]]


@dataclass(frozen=True)
class Call:
    """The sizes of one network call.

    Attributes:
        batch: B.
        height, width: of the latent.
        text_length: L, tokens of a padded prompt.
    """

    batch: int
    height: int
    width: int
    text_length: int


@dataclass(frozen=True)
class Denoiser:
    """A class of network.

    Attributes:
        classes: class names in diffusers; a class derived from one is covered too.
        sample: the argument that holds the latent.
        latent_multiple: (configuration) → what a latent side must be a multiple of.
        inputs: (configuration, call, zeros) → the keyword arguments of one call, as the stock pipelines pass them;
            ``zeros(*shape, dtype=None)`` makes a tensor of zeros.
        chains: attributes that hold lists of equal blocks, in the order in which they run; empty for a network of down
            and up blocks with skip connections between them.
        block_output: what a block of a chain returns.
        cross_attention: (network) → its modules that attend from the image to the text; none where image and text
            attend jointly.
        embeds_guidance: (configuration) → the guidance scale is an input of the network.
        guided_above: a guidance scale above this is guidance.
        guides_by_default: a guidance scale alone brings an unconditional half about; False where that takes arguments
            that postdiff leaves out, or there is none.
        resized: (inputs of a call, latent size (height, width), full latent size) → those of the inputs that name the
            latent's size, for a smaller one; the pipeline passes those of the full size.
        lacks: fields of ``Knobs`` that do nothing for it.
    """

    classes: tuple[str, ...]
    sample: str
    latent_multiple: Callable[[Any], int]
    inputs: Callable[[Mapping[str, Any], Call, Zeros], dict[str, Any]]
    chains: tuple[str, ...] = ()
    block_output: BlockOutput = "hidden"
    cross_attention: Callable[[Any], list[Any]] = lambda network: marked_cross_attention(network)
    embeds_guidance: Callable[[Mapping[str, Any]], bool] = lambda config: False
    guided_above: float = 1.0
    guides_by_default: bool = True
    resized: Resized = lambda inputs, size, full: {}
    lacks: frozenset[str] = frozenset()

    def blocks(self, network: Any) -> list[Any]:
        """The blocks of a network's chains, in the order in which they run; empty for one of down and up blocks."""
        return [block for chain in self.chains for block in getattr(network, chain)]


@dataclass(frozen=True)
class Family:
    """What postdiff has to know about a pipeline class.

    Attributes:
        pipeline_class: class name in diffusers.
        network: the network called once per step.
        denoiser: attribute of the pipeline that holds it.
        text_encoders: attributes that hold text encoders, in order.
        guidance: where the two halves of guidance are.
        latents: how the pipeline holds its latents.
        latents_first: the pipeline makes its latents before it sets the timesteps, and may shift those by the size of
            the latents. It is given latents of the full size then, and smaller ones take their place in the first step.
        encodes_empty_text: an empty negative prompt goes through the text encoders (it is zeros otherwise).
        safety_checked: the pipeline may come with a safety checker, which blacks out images.
        control: attribute that holds a control network called before the denoiser, or None.
        without_control: the class for the same model without a control network; its own name where it has none.
        low_res_refusal: why low-resolution steps are not defined here; empty where they are.
        partial_schedule: the pipeline may run a tail of the schedule only (image to image with a strength); the
            knobs' fractions then apply to the steps that do run.
        held_at_full_size: inputs of the network that name a resolution. They keep the full size on low-resolution
            steps: they name the image that is wanted, and the pipeline is called at its full size throughout.
        paper_scale: β of the paper's setting (its table 1).
        scale_arguments: (guidance scale) → the arguments of a call that set it; a text among them is for each prompt.
        text_tokens: (pipeline, longest prompt in tokens) → tokens of a padded prompt, as the network gets them.
    """

    pipeline_class: str
    network: Denoiser
    denoiser: str = "unet"
    text_encoders: tuple[str, ...] = ("text_encoder",)
    guidance: Guidance = "unconditional first"
    latents: LatentLayout = "spatial"
    latents_first: bool = False
    encodes_empty_text: bool = True
    safety_checked: bool = False
    control: str | None = None
    without_control: str = ""
    low_res_refusal: str = ""
    partial_schedule: bool = False
    held_at_full_size: tuple[str, ...] = ()
    paper_scale: float = 0.5
    scale_arguments: Callable[[float], dict[str, Any]] = lambda scale: {"guidance_scale": scale}
    text_tokens: Callable[[Any, int], int] = lambda pipe, longest: longest

    def __post_init__(self) -> None:
        object.__setattr__(self, "without_control", self.without_control or self.pipeline_class)

    @property
    def guides(self) -> bool:
        """False where no unconditional half exists (LCM); then m means cross-attention caching alone."""
        return self.guidance not in ("embedded", "none")


def marked_cross_attention(network: Any) -> list[Any]:
    """Modules that attend from the image to the text, as diffusers marks them: ``is_cross_attention``."""
    return [module for module in network.modules() if getattr(module, "is_cross_attention", False) is True]


#: Why image to image has no low-resolution steps.
STARTS_FROM_IMAGE = "image to image starts from a noised image, not from pure noise"
