"""CMMD: the distance of two sets of images by their CLIP embeddings.

It is the squared maximum mean discrepancy of unit CLIP embeddings under a Gaussian kernel (Jayasumana et al.,
arXiv 2401.09603: σ = 10, times 1000). Unlike the published code it leaves out the diagonal, hence is unbiased and
may fall slightly below 0, and it is computed in float64. A plan's images and the baseline's are of the same prompts
and seeds, dependent image by image: there the diagonal between the sets is left out too (Gretton et al., JMLR 13, 2012,
eq. 4), without which the estimate would be too low, by about 9/N for N prompts of ordinary CLIP embeddings. With few
prompts it is noisy.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

CMMD_SIGMA = 10.0
CMMD_SCALE = 1000.0


def paired_cmmd(features: npt.NDArray[Any], reference: npt.NDArray[Any]) -> tuple[float, float]:
    """Unbiased CMMD between images of the same prompts and seeds, and its standard error by the jackknife.

    Equal sets give 0 exactly. With few prompts the estimate is noisy: look at the standard error.

    Args:
        features, reference: (N, D) unit embeddings, row i of both of the same prompt and seed; N ≥ 3.

    Raises:
        ValueError: fewer than three pairs, or sets of different shapes.
    """
    x, y = np.asarray(features, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    n = len(x)
    if x.shape != y.shape or n < 3:
        raise ValueError(f"paired CMMD needs at least three pairs, got {x.shape} and {y.shape}")
    across = _kernel(x, y)
    h = _kernel(x, x) + _kernel(y, y) - across - across.T
    np.fill_diagonal(h, 0.0)
    rows = h.sum(1)
    total = float(rows.sum())
    without = (total - 2 * rows) / ((n - 1) * (n - 2))  # leaving out each prompt in turn
    error = float(np.sqrt((n - 1) / n * ((without - without.mean()) ** 2).sum()))
    return CMMD_SCALE * total / (n * (n - 1)), CMMD_SCALE * error


def _kernel(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    squared = (a * a).sum(1)[:, None] + (b * b).sum(1)[None, :] - 2 * a @ b.T
    gram: npt.NDArray[np.float64] = np.exp(-np.maximum(squared, 0) / (2 * CMMD_SIGMA**2))
    return gram
