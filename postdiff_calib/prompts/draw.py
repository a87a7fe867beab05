"""Drawing the calibration set and a disjoint held-out set from a prompt set.

The search uses calibration prompts, many plans on few prompts each; its finalists are judged on held-out prompts,
which it never saw, few plans on all of them. So the size that is asked for is that of the held-out set, and the
calibration set is half as large.

One seeded shuffle orders the whole set; calibration is taken from its front and held-out prompts from its back. So a
larger draw with the same seed begins with the smaller one, and the same numbers always mean the same prompts.

Where prompts have categories, the shuffle spreads each of them evenly: the r-th of n prompts of a category comes at
(r + u) / n of the order, u random per category. So every draw, however small, from the front or from the back, holds
the categories in the set's proportions, to within a prompt or two of each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from random import Random

from postdiff_calib.errors import PromptError
from postdiff_calib.prompts.read import PromptSet, content_hash

#: Seeds from 0 to this are accepted everywhere: in files, in databases, by torch and numpy.
HIGHEST_SEED = 2**63 - 1


def require_seed(seed: int, count: int = 1, highest: int = HIGHEST_SEED) -> None:
    """Refuse a seed that some part of a job could not take.

    Args:
        seed: of the first of ``count`` prompts; the others count on from it.
        count: at least 1.
        highest: the largest seed that is taken.

    Raises:
        PromptError: it is no whole number, below 0, or the last prompt's is above ``highest``.
    """
    last = highest - count + 1
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed <= last:
        raise PromptError(
            f"--seed {seed}", f"it must be a whole number from 0 to {last}", "take a small one, such as 0"
        )


def draw(prompt_set: PromptSet, size: int, seed: int) -> tuple[PromptSet, PromptSet]:
    """Draw max(1, size // 2) calibration prompts and ``size`` held-out prompts that share none.

    Where the file marks held-out rows, those alone are used for it.

    Returns:
        (calibration, held_out), each with its own plan id and the source and licence of the set.

    Raises:
        PromptError: ``size`` is below 1, or the set holds too few prompts.
    """
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise PromptError(f"num_prompts={size!r}", "it must be a whole number of at least 1", "the default is 500")
    n_search = max(1, size // 2)
    front = _shuffled(prompt_set.prompts, seed, prompt_set.categories)
    back = _shuffled(prompt_set.held_out, seed, prompt_set.categories) if prompt_set.held_out else front[::-1]
    enough = (n_search <= len(front) and size <= len(back)) if prompt_set.held_out else size + n_search <= len(front)
    if not enough:
        reserved = f" and {len(back)} held-out ones" if prompt_set.held_out else ""
        raise PromptError(
            f"prompt set {prompt_set.name!r} with {len(front)} distinct prompts{reserved}",
            f"{n_search} for the search and {size} disjoint held-out ones for its finalists are needed",
            f"ask for at most {_largest(prompt_set)} (--num-prompts), or give a larger set",
        )

    def part(prompts: tuple[str, ...], name: str) -> PromptSet:
        known = prompt_set.categories
        return replace(
            prompt_set,
            prompts=prompts,
            held_out=(),
            sha256=content_hash(prompts),
            name=f"{prompt_set.name}/{name}",
            categories={prompt: known[prompt] for prompt in prompts if prompt in known},
        )

    return part(front[:n_search], "calibration"), part(back[:size], "held-out")


def left_over(prompt_set: PromptSet, size: int, seed: int) -> tuple[str, ...]:
    """The prompts that ``draw`` with the same arguments leaves: neither calibration nor held-out ones, in draw order.

    Raises:
        PromptError: as ``draw``.
    """
    calibration, held_out = draw(prompt_set, size, seed)
    front = _shuffled(prompt_set.prompts, seed, prompt_set.categories)
    if not prompt_set.held_out:
        return front[len(calibration) : len(front) - len(held_out)]
    # Unreserved rows first: they are what the calibration prompts were drawn from.
    return front[len(calibration) :] + _shuffled(prompt_set.held_out, seed, prompt_set.categories)[len(held_out) :]


def _shuffled(prompts: tuple[str, ...], seed: int, categories: Mapping[str, str]) -> tuple[str, ...]:
    """Prompts in random order, each category spread evenly over it (see module)."""
    order = list(prompts)
    Random(seed).shuffle(order)
    if not categories:
        return tuple(order)
    labels = [categories.get(prompt, "") for prompt in order]
    sizes, met = Counter(labels), Counter[str]()
    offsets = {label: Random(f"{seed}/{label}").random() for label in sizes}
    places = []
    for label in labels:
        places.append((met[label] + offsets[label]) / sizes[label])
        met[label] += 1
    return tuple(order[i] for i in sorted(range(len(order)), key=places.__getitem__))


def _largest(prompt_set: PromptSet) -> int:
    if prompt_set.held_out:
        return min(len(prompt_set.held_out), 2 * len(prompt_set) + 1)
    best = 2 * len(prompt_set) // 3
    while best + 1 + max(1, (best + 1) // 2) <= len(prompt_set):
        best += 1
    return max(0, best if best + max(1, best // 2) <= len(prompt_set) else best - 1)
