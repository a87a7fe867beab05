"""The knobs: one table of all there are, and one immutable point of the search space.

Source: PostDiff, arXiv 2508.06160, sections 2.2 (mixed resolution), 2.5 (hybrid module caching) and 2.6 (guidance).

The fields of ``Knobs`` are the table: each states its symbol, flag, range, neutral value, grid of the search, severity
and meaning. Search space, surrogate, importance, command line, the profile's section with its comment and schema, and
the report read them from ``table()``, so a knob is named here and in the file of its technique only.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any, Literal, cast

from postdiff_calib.errors import KnobError

CrossAttentionCache = Literal["cond", "mean", "off"]


@dataclass(frozen=True)
class Knob:
    """One row of the table.

    Attributes:
        field: its name in ``Knobs`` and in files.
        symbol: its short name in tables and plots.
        flag: its option on the command line.
        meaning: one line, without capital letter or full stop.
        kind: ``int``, ``float`` or ``str``.
        neutral: the value at which it does nothing; for T, which has none, a usual one.
        remedy: what an error tells a user to do.
        low, high: smallest and largest value accepted, wider than any search; a ``float`` may exclude an end.
        excludes: the end that is not accepted itself, and why.
        choices: the values of a ``str``.
        grid: values that a search tries, the neutral one first; empty where a search leaves it alone.
        card_grid: (card) → those values where they differ between models.
        needs: the knob without which this one does nothing.
        usual: the value where ``needs`` is set and this one is left out.
        paper: the value of the paper's setting (its table 1).
        family_paper: (pipeline family) → that value where it differs between families.
        severity: value → what it takes away, 0 (nothing) to 1 (all).
        inverse: quality depends on it through 1/x, as on the step size 1/T.
        interacts: knobs with which its effect is far from additive.
        binding: cost falls with it whatever the others are.
        idle: its value beside ``needs`` for a model that lacks it, where that is not the neutral one.
        per_model: its neutral value is the model's own (T), and it is always shown.
        optional: files written before it was known lack it, and mean its neutral value.
    """

    field: str
    symbol: str
    flag: str
    meaning: str
    kind: type
    neutral: Any
    remedy: str = "correct the value"
    low: float = 0.0
    high: float = 1.0
    excludes: tuple[float, str] | None = None
    choices: tuple[str, ...] = ()
    grid: tuple[float, ...] = ()
    card_grid: Callable[[Any], tuple[float, ...]] | None = None
    needs: str = ""
    usual: Any = None
    idle: Any = None
    paper: float | None = None
    family_paper: Callable[[Any], float] | None = None
    severity: Callable[[Any], float] | None = None
    inverse: bool = False
    interacts: tuple[str, ...] = ()
    binding: bool = False
    per_model: bool = False
    optional: bool = False

    @property
    def searched(self) -> bool:
        """Whether a search varies it."""
        return bool(self.grid) or self.card_grid is not None

    @property
    def help(self) -> str:
        """Its meaning as a sentence, with the values of a choice."""
        values = f": {', '.join(self.choices)}" if self.choices else ""
        return f"{self.meaning[0].upper()}{self.meaning[1:]}{values}."

    @property
    def range(self) -> str:
        """Its meaning and the values it takes, e.g. ``denoising steps; 1 to 1000``."""
        values = " or ".join(self.choices) or f"{self.low:g} to {self.high:g}"
        excluded = f" without {self.excludes[0]:g}" if self.excludes else ""
        return f"{self.meaning}; {values}{excluded}"

    def check(self, value: Any) -> Any:
        """The value as it is kept, a ``float`` where the knob is one.

        Raises:
            KnobError: of the wrong type or out of range.
        """
        if self.choices:
            if value not in self.choices:
                self._refuse(value, f"it must be one of {', '.join(self.choices)}")
            return value
        number = isinstance(value, (int,) if self.kind is int else (int, float)) and not isinstance(value, bool)
        if not number or not math.isfinite(value) or not self.low <= value <= self.high:
            what = "whole number" if self.kind is int else "number"
            self._refuse(value, f"it must be a {what} from {self.low:g} to {self.high:g}")
        if self.excludes is not None and value == self.excludes[0]:
            self._refuse(value, self.excludes[1])
        return self.kind(value)

    def _refuse(self, value: Any, rule: str) -> None:
        raise KnobError(f"{self.field}={value!r}", rule, self.remedy)

    def show(self, value: Any) -> str:
        """Symbol and value, e.g. ``s=0.5``."""
        return f"{self.symbol}={value}" if self.choices else f"{self.symbol}={value:g}"


def _knob(neutral: Any, **row: Any) -> Any:
    """A field of ``Knobs`` with its row of the table."""
    return dataclasses.field(default=neutral, metadata={"row": {"kind": type(neutral), **row}})


def _card_steps(card: Any) -> tuple[float, ...]:
    low, high = card.step_range
    return tuple(sorted({*range(low, high + 1), card.num_inference_steps}))


@dataclass(frozen=True)
class Knobs:
    """One way to run a diffusion model; the defaults are the baseline, at 20 steps.

    ``s`` and ``β`` go together: β must be below 1 when s > 0. A knob of a technique that was registered for a time is
    given by its name too, and kept in ``more`` where it is not neutral.

    Raises:
        KnobError: a value of the wrong type or out of range.
    """

    num_inference_steps: int = _knob(
        20, symbol="T", flag="-T", meaning="denoising steps", low=1, high=1000,
        remedy="take the number of denoising steps, such as 20",
        card_grid=_card_steps, severity=lambda v: 1 / v, inverse=True, binding=True, per_model=True,
    )  # fmt: skip
    low_res_fraction: float = _knob(
        0.0, symbol="s", flag="-s", meaning="share of the steps, the early ones, run at low_res_scale (β) of the side",
        remedy="take the share of early steps at low resolution, such as 0.5",
        excludes=(1.0, "it must be below 1, since the last steps run at full resolution"),
        # The paper's 0 … 0.6 in tenths, and two more at the cheap end.
        grid=(0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8), paper=0.5, severity=lambda v: v,
    )  # fmt: skip
    low_res_scale: float = _knob(
        1.0, symbol="β", flag="--beta", meaning="side of the low-resolution latent over the full side", low=0.25,
        remedy="take the low side over the full side, such as 0.5", needs="low_res_fraction", usual=0.5,
        card_grid=lambda card: card.low_res_scales, paper=0.5, family_paper=lambda family: family.paper_scale,
        severity=lambda v: 1 - v, interacts=("low_res_fraction",), binding=True,
    )  # fmt: skip
    cache_interval: int = _knob(
        1, symbol="k", flag="-k", meaning="the deep blocks run every k-th step", low=1, high=1000,
        remedy="take 1 to run the deep blocks on every step, 2 on every other",
        grid=(1, 2, 3, 4, 5), paper=2, severity=lambda v: 1 - 1 / v, interacts=("num_inference_steps",),
    )  # fmt: skip
    guidance_fraction: float = _knob(
        1.0, symbol="m", flag="-m", meaning="share of the steps with guidance",
        remedy="take the share of steps that are guided, such as 0.75, or 1 for all",
        excludes=(0.0, "it must be above 0"),
        # The paper's 0.45 … 0.9 and never dropped, and one more at the cheap end.
        grid=(1.0, 0.9, 0.75, 0.6, 0.45, 0.3), paper=0.75, severity=lambda v: 1 - v,
    )  # fmt: skip
    cache_branch: int = _knob(
        1, symbol="branch", flag="--cache-branch", meaning="how little of the network runs in between", high=11,
        remedy="take 1, as the paper does", needs="cache_interval",
    )  # fmt: skip
    cross_attention_cache: CrossAttentionCache = _knob(
        "cond", symbol="cross", flag="--cross-attention-cache", choices=("cond", "mean", "off"),
        meaning="what stands in for cross-attention once guidance has ended", remedy="the paper's choice is cond",
        needs="guidance_fraction", idle="off",
    )  # fmt: skip
    more: tuple[tuple[str, Any], ...] = ()

    def __post_init__(self) -> None:
        for row in TABLE:
            object.__setattr__(self, row.field, row.check(getattr(self, row.field)))
        known = {row.field: row for row in _REGISTERED}
        for name, _ in self.more:
            if name not in known:
                raise KnobError(f"unknown knob {name!r}", f"knobs are {', '.join(sorted(names()))}", "correct the name")
        given = [(name, known[name].check(value)) for name, value in self.more]
        kept = sorted((name, value) for name, value in given if value != known[name].neutral)
        object.__setattr__(self, "more", tuple(kept))
        if self.low_res_fraction > 0 and self.low_res_scale >= 1:
            raise KnobError(
                f"low_res_fraction={self.low_res_fraction:g} with low_res_scale={self.low_res_scale:g}",
                "low-resolution steps need a scale below 1",
                "set low_res_scale (--beta), such as 0.5",
            )

    def __getattr__(self, name: str) -> Any:
        for row in _REGISTERED:
            if row.field == name:
                return dict(self.more).get(name, row.neutral)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def as_dict(self) -> dict[str, Any]:
        """The values by name, in the order of the table; the inverse of ``from_dict``."""
        return {row.field: getattr(self, row.field) for row in table()}

    def chosen(self) -> dict[str, Any]:
        """The values by name that are not neutral, and T; the others may have been left out."""
        return {row.field: v for row in table() if (v := getattr(self, row.field)) != row.neutral or row.per_model}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Knobs:
        """Build from names and values, as read from a file.

        Raises:
            KnobError: an unknown name, or a value that is refused.
        """
        known = names()
        for name in values:
            if name not in known:
                raise KnobError(f"unknown knob {name!r}", f"knobs are {', '.join(sorted(known))}", "correct the name")
        if not _REGISTERED:
            return cls(**cast(Any, values))
        more = {row.field for row in _REGISTERED} & set(values)
        own = {name: value for name, value in values.items() if name not in more}
        return cls(**cast(Any, own), more=tuple((name, values[name]) for name in sorted(more)))

    def describe(self) -> str:
        """One short line, e.g. ``T=20 s=0.5 β=0.5 k=2 m=0.75``; knobs that do nothing are left out."""
        parts = []
        for row in table():
            if row.needs or (getattr(self, row.field) == row.neutral and not row.per_model):
                continue
            parts.append(row.show(getattr(self, row.field)))
            own = [other for other in table() if other.needs == row.field]
            parts += [o.show(getattr(self, o.field)) for o in own if getattr(self, o.field) != o.neutral]
        return " ".join(parts)


def _takes_registered(generated: Callable[..., None]) -> Callable[..., None]:
    """``Knobs(...)`` takes the knobs of registered techniques by their names."""

    @functools.wraps(generated)
    def init(self: Knobs, *args: Any, **given: Any) -> None:
        own = {row.field: given.pop(row.field) for row in _REGISTERED if row.field in given}
        if own:
            given["more"] = tuple({**dict(given.get("more", ())), **own}.items())
        generated(self, *args, **given)

    return init


cast(Any, Knobs).__init__ = _takes_registered(Knobs.__init__)

TABLE: tuple[Knob, ...] = tuple(
    Knob(field=f.name, neutral=f.default, **f.metadata["row"]) for f in fields(Knobs) if "row" in f.metadata
)
_FIELDS = frozenset(row.field for row in TABLE)
_ARGUMENTS = "\n".join(f"        {row.field}: {row.symbol}, {row.range}." for row in TABLE)
cast(Any, Knobs).__doc__ = (Knobs.__doc__ or "").replace("    Raises:", f"    Args:\n{_ARGUMENTS}\n\n    Raises:")
#: Rows of techniques that are registered for a time.
_REGISTERED: list[Knob] = []


@contextmanager
def extended(rows: Sequence[Knob]) -> Iterator[None]:
    """More rows in the table, for the length of the block; see ``techniques.registered``."""
    _REGISTERED.extend(rows)
    try:
        yield
    finally:
        for row in rows:
            _REGISTERED.remove(row)


def table() -> tuple[Knob, ...]:
    """Every knob, in order."""
    return (*TABLE, *_REGISTERED)


def names() -> frozenset[str]:
    """The fields of all knobs."""
    return _FIELDS.union(row.field for row in _REGISTERED) if _REGISTERED else _FIELDS


def knob_named(text: str) -> Knob | None:
    """The knob of a symbol, a flag (with or without dashes) or a field, such as ``β``, ``beta``, ``low_res_scale``."""
    name = text.strip()
    plain = name.lstrip("-").replace("-", "_")
    for row in table():
        if name == row.symbol or plain in (row.flag.lstrip("-").replace("-", "_"), row.field):
            return row
    return None


def searched() -> tuple[Knob, ...]:
    """The knobs that a search varies, in the order of its coordinates."""
    return tuple(row for row in table() if row.searched)


def settled(values: Mapping[str, Any], default_steps: int, lacks: Collection[str] = ()) -> Knobs:
    """Knobs from values by name, some of which do nothing beside the others.

    Args:
        values: by field; what is missing or None is neutral. A knob whose ``needs`` is neutral becomes neutral too; one
            that is left out beside a ``needs`` that is set takes its usual value.
        default_steps: T where it is missing.
        lacks: fields that do nothing for the model; of these, one that is left out takes its ``idle`` value.

    Raises:
        KnobError: a value that is refused.
    """
    found: dict[str, Any] = {}
    rows = table()
    neutral = {row.field: row.neutral for row in rows}
    for row in rows:
        value = values.get(row.field)
        if value is None:
            value = default_steps if row.per_model else row.neutral
            if row.needs and row.usual is not None:
                value = row.usual
            if row.idle is not None and row.field in lacks:
                value = row.idle
        found[row.field] = value
    for row in rows:
        if row.needs and found[row.needs] == neutral[row.needs]:
            found[row.field] = row.neutral
        if row.kind is int and isinstance(found[row.field], float) and found[row.field].is_integer():
            found[row.field] = int(found[row.field])
    return Knobs.from_dict(found)
