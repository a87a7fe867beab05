"""Scorers trained on people's choices between images: PickScore and HPSv2.1, both CLIP models of ViT-H-14's size.

*PickScore* (Kirstain et al., arXiv 2305.01569): exp(logit scale) × cosine of a transformers ``CLIPModel``.
*HPSv2.1* (Wu et al., arXiv 2306.09341): 100 × cosine of an open_clip model.

Weights come from a folder or from the hub, there of the commit that is named (``owner/name@COMMIT``) or of the newest.
HPSv2.1 is published as a pickle
only; it is read with ``weights_only``, which builds tensors and nothing else. Both have embeddings, so CMMD is measured
with them.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from postdiff_calib.errors import ModelError, reason_of
from postdiff_calib.files.pixels import to_array
from postdiff_calib.models.hub import newest_commit, on_hub, split_commit
from postdiff_calib.quality.clip import ClipScorer

if TYPE_CHECKING:
    import torch

PICKSCORE, PICKSCORE_WEIGHTS = "yuvalkirstain/PickScore_v1", "model.safetensors"
HPSV2, HPSV2_WEIGHTS = "xswu/HPSv2", "HPS_v2.1_compressed.pt"
#: open_clip's name of the architecture that HPSv2.1 is.
HPSV2_ARCH = "ViT-H-14"
#: The tokenizer and preprocessing of PickScore, where its repository or folder has none.
_PROCESSOR = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
_FILES = ("*.json", "*.txt", PICKSCORE_WEIGHTS)
_MAX_TOKENS = 77


class PickScorer(ClipScorer):
    """PickScore.

    Args:
        name: ``pickscore``, or with a place behind a colon: a folder, or ``owner/name@COMMIT``.

    Raises:
        ModelError: it is not there, or no ``CLIPModel``.
    """

    def _read(self, name: str, device: str) -> tuple[Any, Any, Any, Path]:
        from safetensors import SafetensorError
        from transformers import AutoTokenizer, CLIPImageProcessor, CLIPModel

        folder = _folder(name)
        try:
            # A folder on this machine each: nothing is downloaded, so no revision can be named.
            model = CLIPModel.from_pretrained(folder, use_safetensors=True, local_files_only=True)  # nosec B615
            source = folder if (folder / "preprocessor_config.json").is_file() else _folder(f"pickscore:{_PROCESSOR}")
            images = CLIPImageProcessor.from_pretrained(source, local_files_only=True)  # nosec B615
            texts = AutoTokenizer.from_pretrained(source, local_files_only=True)  # nosec B615
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            rule = f"transformers cannot load it ({reason_of(error)[:200]})"
            raise ModelError(f"scorer {name!r}", rule, "check its configuration and weights") from error
        model = model.float().eval().requires_grad_(False).to(device)
        self.scale = float(model.logit_scale.exp())

        def tokens(prompts: Sequence[str]) -> Any:
            return texts(list(prompts), padding=True, truncation=True, max_length=_MAX_TOKENS, return_tensors="pt")

        return _Encoders(model), images, tokens, folder / PICKSCORE_WEIGHTS

    def preprocess(self, images: torch.Tensor) -> torch.Tensor:
        """The checkpoint's own preprocessing: (B, 3, H, W) in [0, 1] → (B, 3, S, S), normalised."""
        from PIL import Image

        in_8_bits = [Image.fromarray(to_array(image)) for image in images]
        pixels: torch.Tensor = self._preprocess(images=in_8_bits, return_tensors="pt")["pixel_values"]
        return pixels


class _Encoders:
    """A transformers ``CLIPModel`` with the two methods of an open_clip model."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def encode_image(self, pixels: torch.Tensor) -> Any:
        """(B, 3, S, S) → (B, D)."""
        return _pooled(self._model.get_image_features(pixel_values=pixels))

    def encode_text(self, tokens: Any) -> Any:
        """A tokenizer's output for B texts → (B, D)."""
        return _pooled(self._model.get_text_features(**tokens))


def _pooled(found: Any) -> Any:
    """The features; some versions of transformers give them inside an output."""
    return getattr(found, "pooler_output", found)


class HpsScorer(ClipScorer):
    """HPSv2.1.

    Args:
        name: ``hpsv2``, or with a weights file or ``owner/name@COMMIT`` behind a colon.

    Raises:
        ModelError: it is not there, or its weights are another model's.
    """

    def _read(self, name: str, device: str) -> tuple[Any, Any, Any, Path]:
        import open_clip

        weights = hps_weights(name)
        state = _tensors(name, weights)
        model, _, preprocess = open_clip.create_model_and_transforms(HPSV2_ARCH, device=device)
        try:
            model.load_state_dict(state)
        except RuntimeError as error:
            rule = f"{weights.name} is not of {HPSV2_ARCH} ({reason_of(error)[:100]})"
            raise ModelError(f"scorer {name!r}", rule, f"take {HPSV2_WEIGHTS} of {HPSV2}") from error
        tokenizer = open_clip.get_tokenizer(HPSV2_ARCH)
        return model.float().eval().requires_grad_(False), preprocess, tokenizer, weights


def _tensors(name: str, weights: Path) -> Any:
    import torch

    remedy = f"take {HPSV2_WEIGHTS} of {HPSV2}"
    try:
        state = torch.load(weights, map_location="cpu", weights_only=True)
    except (RuntimeError, ValueError, EOFError, OSError, pickle.UnpicklingError) as error:
        raise ModelError(f"scorer {name!r}", f"{weights} holds more than tensors, or cannot be read", remedy) from error
    state = state.get("state_dict", state) if isinstance(state, dict) else None
    if not isinstance(state, dict):
        raise ModelError(f"scorer {name!r}", f"{weights} holds no weights", remedy)
    return state


def hps_weights(name: str) -> Path:
    """The file of HPSv2.1's weights.

    Raises:
        ModelError: it is not where it is said to be, or neither in the hub's cache nor reachable.
    """
    _, _, place = name.partition(":")
    if place and not on_hub(place):
        if not os.path.isfile(place):
            raise ModelError(f"scorer {name!r}", f"there is no file {place}", f"take {HPSV2_WEIGHTS} of {HPSV2}")
        return Path(place)
    from huggingface_hub import hf_hub_download

    repository, commit = _commit(name, place or HPSV2, HPSV2_WEIGHTS)
    try:
        return Path(hf_hub_download(repository, HPSV2_WEIGHTS, revision=commit))
    except (OSError, ValueError) as error:
        raise _absent(name, repository, HPSV2_WEIGHTS) from error


def _commit(name: str, place: str, file: str) -> tuple[str, str]:
    """(repository, commit): the commit that is named, else the newest.

    Raises:
        ModelError: there is neither.
        UsageError: what is named is no commit.
    """
    repository, commit = split_commit(f"scorer {name!r}", place)
    if (found := commit or newest_commit(repository)) is None:
        raise _absent(name, repository, file)
    return repository, found


def _folder(name: str) -> Path:
    """The folder of a ``CLIPModel``: one that is named, or the hub's snapshot of a repository."""
    _, _, place = name.partition(":")
    if place and os.path.isdir(place):
        return Path(place)
    from huggingface_hub import snapshot_download

    repository, commit = _commit(name, place or PICKSCORE, PICKSCORE_WEIGHTS)
    try:
        return Path(snapshot_download(repository, revision=commit, allow_patterns=list(_FILES)))
    except (OSError, ValueError) as error:
        raise _absent(name, repository, PICKSCORE_WEIGHTS) from error


def _absent(name: str, repository: str, file: str) -> ModelError:
    kind = name.partition(":")[0]
    return ModelError(
        f"scorer {name!r}",
        f"{repository} is neither in the Hugging Face cache nor reachable at a commit that is named",
        f"fetch a commit of it (hf download {repository} {file} --revision COMMIT), "
        f"or name its place: {kind}:PATH or {kind}:{repository}@COMMIT",
    )
