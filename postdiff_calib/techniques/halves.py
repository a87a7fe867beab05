"""The two halves of guidance in a network's batch: taking one of them, and handing one back for both.

Symbols: b images in the batch, B = 2b network batch.
"""

from __future__ import annotations

from typing import Any

from postdiff_calib.errors import UnsupportedError

#: Inputs whose first dimension is not the batch, whatever its length.
_UNBATCHED = {"ip_adapter_masks"}


def halve_batch(value: Any, batch: int, half: int = 1, *, listed: bool = False) -> Any:
    """The conditional half of every tensor whose first dimension is ``batch``, in nested containers too.

    Args:
        value: a tensor, a container, or anything else, which is returned as it is.
        batch: entries of the network's batch.
        half: which half is the conditional one.
        listed: a list as long as the batch has an entry for each.

    Raises:
        UnsupportedError: IP-Adapter embeddings for another batch, of which no half can be told.
    """
    import torch

    if listed and isinstance(value, list) and len(value) == batch:
        return value[half * (batch // 2) :][: batch // 2]
    if isinstance(value, torch.Tensor):
        return value.chunk(2)[half] if value.ndim > 0 and value.shape[0] == batch else value
    if isinstance(value, dict):
        adapters = value.get("image_embeds")
        for embeddings in adapters if isinstance(adapters, (list, tuple)) else ():
            if embeddings.shape[0] != batch:
                raise UnsupportedError(
                    f"IP-Adapter embeddings for {embeddings.shape[0]} in a batch of {batch}",
                    "dropping guidance needs one entry per image and half",
                    "pass embeddings of one negative and one positive image; the pipeline repeats them",
                )
        return {
            key: item if isinstance(key, str) and key in _UNBATCHED else halve_batch(item, batch, half, listed=listed)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return type(value)(halve_batch(item, batch, half, listed=listed) for item in value)
    return value


def double_output(output: Any) -> Any:
    """A network's output handed back twice: ``(sample,)``, a tensor or list, or an output class with ``sample``."""
    import torch

    if isinstance(output, torch.Tensor):
        return torch.cat([output, output])
    if isinstance(output, list):
        return [*output, *output]
    if isinstance(output, tuple):
        return (double_output(output[0]), *output[1:])
    output.sample = double_output(output.sample)
    return output
