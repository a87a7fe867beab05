"""CLIP score per prompt with open_clip: 100 × cosine between an image's and its prompt's embedding.

The backbone is a setting, named ``ARCH::pretrained_tag`` (weights from the Hugging Face cache, or from the hub where
their commit is known here or named behind the tag, ``@COMMIT``) or ``local-dir:/path`` (open_clip's own folder format).
Only safetensors weights are read. Images stay tensors: they are rounded to 8 bits, as a saved image is, and go through
the very transforms that open_clip prescribes, in batches.
Scores are kept per prompt, since plans are compared by paired differences. Source: Hessel et al., CLIPScore,
arXiv 2104.08718 (without its rescaling and clipping, as in PostDiff's tables).
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from postdiff_calib.errors import ModelError
from postdiff_calib.files import file_sha256
from postdiff_calib.files.pixels import levels
from postdiff_calib.models.hub import newest_commit, no_download, split_commit
from postdiff_calib.quality.metrics import SCORE

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

#: Commits of repositories whose weights are used by default, so that a score means the same next year.
REVISIONS = {"laion/CLIP-ViT-B-32-laion2B-s34B-b79K": "1a25a446712ba5ee05982a381eed697ef9b435cf"}
_LOCAL = "local-dir:"
_WEIGHTS = "open_clip_model.safetensors"


class ClipScorer:
    """Scores images against prompts; text embeddings are computed once per prompt.

    Args:
        name: ``ARCH::pretrained_tag``, e.g. ``ViT-B-32::laion2b_s34b_b79k``, or ``local-dir:/path``.
        device: a torch device; weights are used in float32 everywhere, so scores compare between machines.
        batch_size: images and prompts per call of the network.
        metric: name of the metric that its scores are.

    Attributes:
        name: as given.
        direction: more is better.
        scale: of the cosine.
        weights_sha256: hash of the weights file, for the record.

    Raises:
        ModelError: unknown backbone, or weights that are missing, damaged or not safetensors.
    """

    direction: Literal["higher"] = "higher"
    scale: float = 100.0

    def __init__(self, name: str, device: str = "cpu", *, batch_size: int = 64, metric: str = SCORE) -> None:
        self.name = name
        self.metric = metric
        self.device = device
        self.batch_size = batch_size
        self._model, self._preprocess, self._tokenizer, weights = self._read(name, device)
        self.weights_sha256 = file_sha256(weights)
        self._texts: dict[str, torch.Tensor] = {}

    def _read(self, name: str, device: str) -> tuple[Any, Any, Any, Path]:
        """(network with ``encode_image`` and ``encode_text``, preprocessing, tokenizer, file of the weights)."""
        return _load(name, device)

    @property
    def fingerprint(self) -> str:
        """What its scores depend on: the hash of its weights."""
        return self.weights_sha256

    def score(self, images: torch.Tensor, prompts: Sequence[str]) -> list[float]:
        """100 × cosine similarity of each image with its own prompt.

        Args:
            images: (B, 3, H, W) float, values in [0, 1], on any device.
            prompts: B prompts.

        Returns:
            B numbers in [−100, 100], higher is better.
        """
        if len(images) != len(prompts):
            raise ValueError(f"{len(images)} images for {len(prompts)} prompts")
        if not len(prompts):
            return []
        return self.score_features(self.image_features(images), prompts)

    def score_features(self, features: torch.Tensor, prompts: Sequence[str]) -> list[float]:
        """``score`` from the images' embeddings, (B, D) as ``image_features`` gives them."""
        scores = self.scale * (features * self.text_features(prompts)).sum(-1)
        return [float(score) for score in scores]

    def image_features(self, images: torch.Tensor, *, unit: bool = True) -> torch.Tensor:
        """Embeddings of images, of unit length or as the network gives them: (B, 3, H, W) in [0, 1] → (B, D).

        They are float32 on the CPU.
        """
        import torch

        with torch.inference_mode():
            parts = [
                self._model.encode_image(self.preprocess(part).to(self.device))
                for part in torch.split(images, self.batch_size)
            ]
            found = [torch.nn.functional.normalize(part, dim=-1) if unit else part for part in parts]
            return torch.cat(found).float().cpu()

    def text_features(self, prompts: Sequence[str]) -> torch.Tensor:
        """Unit embeddings of prompts: (B, D), float32 on the CPU."""
        import torch

        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._texts]
        if new:
            self._texts.update(zip(new, self._encode(new), strict=True))
        return torch.stack([self._texts[prompt] for prompt in prompts])

    def embed_texts(self, prompts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Unit embeddings of prompts that are seen once, (B, D): nothing is remembered, however many there are."""
        features: npt.NDArray[np.float32] = self._encode(prompts).numpy()
        return features

    def _encode(self, prompts: Sequence[str]) -> torch.Tensor:
        import torch

        with torch.inference_mode():
            parts = [
                self._model.encode_text(self._tokenizer(list(prompts[i : i + self.batch_size])).to(self.device))
                for i in range(0, len(prompts), self.batch_size)
            ]
            return torch.nn.functional.normalize(torch.cat(parts), dim=-1).float().cpu()

    def preprocess(self, images: torch.Tensor) -> torch.Tensor:
        """open_clip's own preprocessing on tensors: (B, 3, H, W) in [0, 1] → (B, 3, S, S), normalised."""
        import torch

        resized = levels(images.detach().float().cpu()).to(torch.uint8)
        for transform in self._preprocess.transforms:
            kind = type(transform).__name__
            if kind == "MaybeToTensor":
                resized = resized.float() / 255
            elif kind == "ResizeKeepRatio":  # reads a PIL image's size; the resizing itself is torchvision's
                resized = _resize_keep_ratio(transform, resized)
            elif kind != "MaybeConvertMode":
                resized = transform(resized)
        return resized


def _resize_keep_ratio(transform: Any, images: torch.Tensor) -> torch.Tensor:
    from torchvision.transforms.functional import resize

    class Sized:
        size = (images.shape[-1], images.shape[-2])

    size = transform.get_params(Sized, transform.size, transform.longest)
    resized: torch.Tensor = resize(images, size, transform.interpolation)
    return resized


def _load(name: str, device: str) -> tuple[Any, Any, Any, Path]:
    import open_clip
    from safetensors import SafetensorError

    if name.startswith(_LOCAL):
        weights = _local_weights(name)
        options: dict[str, Any] = {}
        model_name = name
    else:
        model_name, weights, options = _tagged_weights(name)
    try:
        with warnings.catch_warnings(), no_download():  # a tokenizer or a text network would be of a branch
            warnings.simplefilter("ignore", UserWarning)  # open_clip's advice on architectures, not the user's concern
            model, _, preprocess = open_clip.create_model_and_transforms(model_name, device=device, **options)
            tokenizer = open_clip.get_tokenizer(model_name)
    except (RuntimeError, ValueError, OSError, KeyError, TypeError, SafetensorError) as error:
        raise ModelError(
            f"scorer {name!r}",
            f"open_clip cannot load it ({str(error).splitlines()[0][:200]})",
            "check its configuration and weights",
        ) from error
    return model.float().eval().requires_grad_(False), preprocess, tokenizer, weights


def _local_weights(name: str) -> Path:
    folder = Path(name.removeprefix(_LOCAL))
    for file in ("open_clip_config.json", _WEIGHTS):
        if not os.path.isfile(folder / file):
            raise ModelError(
                f"scorer {name!r}", f"{folder / file} is missing", "an open_clip folder holds that and its weights"
            )
    return folder / _WEIGHTS


def _tagged_weights(name: str) -> tuple[str, Path, dict[str, Any]]:
    import open_clip
    from huggingface_hub import hf_hub_download

    arch, separator, tag = name.partition("::")
    remedy = "such as ViT-B-32::laion2b_s34b_b79k, or local-dir:/path"
    if not separator or not tag:
        raise ModelError(f"scorer {name!r}", "a scorer is named ARCH::pretrained_tag", remedy)
    tag, commit = split_commit(f"scorer {name!r}", tag)
    config = open_clip.get_pretrained_cfg(arch, tag)
    if not config:
        known = open_clip.list_pretrained_tags_by_model(arch)
        rule = f"open_clip knows of {arch} the tags {', '.join(known)}" if known else f"open_clip knows no {arch!r}"
        raise ModelError(f"scorer {name!r}", rule, remedy)
    repository = str(config.get("hf_hub") or "").strip("/")
    if "/" not in repository:
        raise ModelError(f"scorer {name!r}", "its weights are not published as safetensors", remedy)
    repository = "/".join(repository.split("/")[:2])
    revision = commit or REVISIONS.get(repository) or newest_commit(repository)
    try:
        if revision is None:
            raise OSError("no commit is known")
        weights = Path(hf_hub_download(repository, _WEIGHTS, revision=revision))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"scorer {name!r}",
            f"{_WEIGHTS} of {repository} is neither in the Hugging Face cache nor reachable",
            f"fetch a commit of it (hf download {repository} {_WEIGHTS} --revision {revision or 'COMMIT'}), "
            "name one (ARCH::tag@COMMIT), or use local-dir:/path",
        ) from error
    options = {
        "pretrained": str(weights),
        "force_quick_gelu": bool(config.get("quick_gelu")),  # as the tag was trained, else scores are off
        "image_mean": config.get("mean"),
        "image_std": config.get("std"),
        "image_interpolation": config.get("interpolation"),
        "image_resize_mode": config.get("resize_mode"),
    }
    return arch, weights, options
