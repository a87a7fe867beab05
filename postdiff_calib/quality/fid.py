"""FID: the Fréchet distance of two sets of images by features of a trained network; and without its bias, FID∞.

d² = |μ₁ − μ₂|² + tr(Σ₁ + Σ₂ − 2(Σ₁Σ₂)^½) of the features' means and covariances (Heusel et al., arXiv 1706.08500). On
CLIP's image embeddings it follows people better than on Inception's (Kynkäänniemi et al., arXiv 2203.06026); clean-fid
calls that ``clip_fid`` and takes the embeddings as the network gives them, and so does this.

The estimate from N images is too high, by about b/N: compare only figures of the same N, or extrapolate. FID∞ is the
intercept of a line through estimates from subsets against 1/N (Chong and Forsyth, arXiv 1911.07023).

Symbols: N images, D width of the features.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from postdiff_calib.errors import ModelError, PromptError, reason_of

if TYPE_CHECKING:
    import torch

    from postdiff_calib.quality.clip import ClipScorer

#: Fewest images: with fewer than Inception has features, 2,048, a covariance is singular, and the bias is large.
LEAST = 2048
#: Subsets that the line goes through, and the smallest one's share of the images.
_SUBSETS, _SMALLEST = 15, 0.5
_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
#: Images embedded at once.
_BATCH = 64

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Fid:
    """A distance of two sets.

    Attributes:
        fid: from all images; too high by about b/N.
        unbiased: FID∞, extrapolated to N → ∞.
        error: standard error of the line's intercept; the subsets overlap, so it tells of the line, not of the images.
        images, reference: numbers of images.
        features: what they are features of.
    """

    fid: float
    unbiased: float
    error: float
    images: int
    reference: int
    features: str

    def __str__(self) -> str:
        return (
            f"FID {self.fid:.3f} from {self.images} images against {self.reference} (too high for that number); "
            f"extrapolated FID∞ {self.unbiased:.3f}; {self.features}"
        )


def frechet(first: npt.NDArray[Any], second: npt.NDArray[Any]) -> float:
    """Squared Fréchet distance of two Gaussians with the sets' means and covariances.

    Args:
        first, second: (N, D) and (M, D) features, N, M ≥ 2.

    Raises:
        ValueError: sets of different widths, or fewer than two rows.
    """
    x, y = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < 2:
        raise ValueError(f"two sets of features of one width are needed, got {x.shape} and {y.shape}")
    return _distance(_moments(x), _moments(y))


def _moments(x: Array) -> tuple[Array, Array]:
    return x.mean(0), np.atleast_2d(np.cov(x, rowvar=False))


def _distance(first: tuple[Array, Array], second: tuple[Array, Array]) -> float:
    # tr (Σ₁Σ₂)^½ is the sum of the roots of Σ₁Σ₂'s eigenvalues, which are those of Σ₁^½ Σ₂ Σ₁^½: symmetric, and stable
    # where a covariance is singular, which a matrix square root of the product is not.
    values, vectors = np.linalg.eigh(first[1])
    root = vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T
    crossed = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ second[1] @ root), 0)).sum()
    shift = first[0] - second[0]
    return float(shift @ shift + np.trace(first[1]) + np.trace(second[1]) - 2 * crossed)


def fid_of(features: npt.NDArray[Any], reference: npt.NDArray[Any], name: str, seed: int = 0) -> Fid:
    """FID of a set against a reference, and FID∞ by subsets of both.

    Args:
        features: (N, D) of the images.
        reference: (M, D) of the reference.
        name: what they are features of.
        seed: of the subsets.

    Raises:
        PromptError: a set of fewer than 2,048 images.
    """
    require_enough(len(features), "images")
    require_enough(len(reference), "reference images")
    x, y = np.asarray(features, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    rng, whole = np.random.default_rng(seed), min(len(x), len(y))
    sizes = np.unique(np.linspace(_SMALLEST * whole, whole, _SUBSETS).astype(int))
    shares = sizes / whole
    values = [
        _distance(_moments(_some(x, share, rng)), _moments(_some(y, share, rng))) if share < 1 else frechet(x, y)
        for share in shares
    ]
    # b/N of both sets shrinks alike where both are cut by one share
    line, covariance = np.polyfit(1 / (shares * whole), values, 1, cov=True)
    return Fid(frechet(x, y), float(line[1]), float(np.sqrt(covariance[1, 1])), len(x), len(y), name)


def _some(rows: Array, share: float, rng: np.random.Generator) -> Array:
    return rows[rng.choice(len(rows), round(share * len(rows)), replace=False)]


def require_enough(count: int, what: str) -> None:
    """Refuse a set that is too small.

    Raises:
        PromptError: fewer than 2,048.
    """
    if count < LEAST:
        raise PromptError(
            f"FID of {count} {what}",
            f"it needs {LEAST:,} at least: below that its bias outweighs what plans differ by",
            "make more images, or take cmmd, which has no such bias",
        )


def clip_features(
    scorer: ClipScorer, batches: Iterable[torch.Tensor], *, unit: bool = False
) -> npt.NDArray[np.float32]:
    """CLIP's image embeddings, (N, D): as the network gives them, or of unit length, as scores keep them."""
    parts = [scorer.image_features(batch, unit=unit).numpy() for batch in batches]
    return np.concatenate(parts).astype(np.float32)


def image_files(folder: Path) -> list[Path]:
    """Images of a folder and the folders in it, by name.

    Raises:
        PromptError: there is no such folder, or too few images in it.
    """
    if not folder.is_dir():
        raise PromptError(f"folder {folder}", "there is no such folder", "give one with images")
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _ENDINGS and path.is_file())
    require_enough(len(found), f"images in {folder}")
    return found


def batches_of(files: Sequence[Path]) -> Iterable[torch.Tensor]:
    """Images of files, (B, 3, H, W) in [0, 1]: as many at a time as are of one size.

    Raises:
        ModelError: one cannot be read.
    """
    import torch
    from PIL import Image

    batch: list[torch.Tensor] = []
    for path in files:
        try:
            with Image.open(path) as file:
                pixels = torch.from_numpy(np.array(file.convert("RGB"))).permute(2, 0, 1).float() / 255
        except (OSError, SyntaxError, ValueError) as error:  # Pillow raises all three on a damaged file
            raise ModelError(f"image {path}", f"it cannot be read ({reason_of(error)})", "remove it") from error
        if batch and (len(batch) == _BATCH or pixels.shape != batch[0].shape):
            yield torch.stack(batch)
            batch = []
        batch.append(pixels)
    if batch:
        yield torch.stack(batch)


def own_images(count: int, seed: int) -> Iterable[torch.Tensor]:
    """Images that the embedded models' own recipe draws, (B, 3, 64, 64) in [0, 1], ``count`` in all."""
    from random import Random

    from postdiff_calib.models.shapes.drawing import render
    from postdiff_calib.models.shapes.world import sample_scene

    rng = Random(f"{seed}/fid")
    for first in range(0, count, _BATCH):
        scenes = [sample_scene(rng) for _ in range(min(_BATCH, count - first))]
        yield render(scenes, seed=rng.randrange(2**31))
