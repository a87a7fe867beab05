"""The sections of a profile: what each states, in which type and range.

``macs`` are multiply-accumulates per image over all network calls of the denoising loop (1 MAC = 2 FLOPs), ``score`` is
100 × the cosine of a CLIP model. Seconds, and all else that varies from run to run, are in ``times.py`` alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, create_model
from pydantic_core import PydanticKnownError, core_schema

from postdiff_calib.accelerate.compiled import CompileMode
from postdiff_calib.cost.budget import BudgetUnit
from postdiff_calib.files import without_passwords
from postdiff_calib.knobs import Knob, table
from postdiff_calib.models.backends import MemoryFormat
from postdiff_calib.models.card import MAX_SIDE
from postdiff_calib.models.cards import split_model
from postdiff_calib.models.hub import is_commit
from postdiff_calib.quality.metrics import SCORER_NAME, comparisons, metrics
from postdiff_calib.techniques.noise import Noise, SwitchWay

Verdict = Literal["better", "equivalent", "worse", "undecided"]
#: Text that may hold an address; one with a password is kept without it.
Address = Annotated[str, AfterValidator(without_passwords)]


class Section(BaseModel):
    """Base of every section: immutable, and strict about keys and types."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, protected_namespaces=())


class ModelSection(Section):
    """The pipeline that was calibrated; a profile refuses to run on another one.

    ``fingerprint`` is of its weights, ``configuration`` of its networks' and scheduler's settings,
    ``tokenizer`` of what its tokenizers make of text; the last two are not in older profiles.
    ``num_inference_steps`` is the baseline's T. ``scheduler_config`` is what the scheduler was given beside the model's
    own settings; null where the model's own scheduler was left as it is. ``adapters`` were loaded into the pipeline.
    ``loras`` were merged into its weights, ``vae`` stood in for its autoencoder, ``variant`` is of its files.
    ``unet_revision`` is the commit of its U-Net, where that has a repository of its own.
    """

    id: Address
    card: str | None
    revision: str
    pipeline_class: str
    denoiser_class: str
    fingerprint: str
    dtype: str
    height: Annotated[int, Field(ge=8, le=MAX_SIDE)]
    width: Annotated[int, Field(ge=8, le=MAX_SIDE)]
    scheduler: str
    guidance_scale: Annotated[float, Field(ge=0)]
    configuration: str | None = None
    tokenizer: str | None = None
    notes: list[str]
    num_inference_steps: Annotated[int, Field(ge=1, le=1000)] | None = None
    negative_prompt: str | None = None
    scheduler_config: dict[str, bool | int | float | str | None] | None = None
    adapters: list[str] = Field(default_factory=list)
    loras: list[Address] = Field(default_factory=list)
    vae: Address | None = None
    variant: str | None = None
    unet_revision: str | None = None

    def to_load(self, name: str, *, revision_apart: bool) -> str:
        """What ``load_pipeline`` takes for the model, at the commit that was loaded.

        Args:
            name: the model as it is named, perhaps with a commit.
            revision_apart: the deployment's settings name the model's own commit.
        """
        commit = self.unet_revision or ("" if revision_apart else self.revision)
        return name if split_model(name)[1] is not None or not is_commit(commit) else f"{name}@{commit}"


class _OfMetrics:
    """Lets a name be checked against the list of metrics as it is when a file is read.

    A name that may be a scorer's passes here; the whole profile knows whether it states that scorer.
    """

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        return core_schema.no_info_after_validator_function(_known_metric, core_schema.str_schema(strict=True))

    def __get_pydantic_json_schema__(self, schema: core_schema.CoreSchema, handler: Any) -> Any:
        listed = {"enum": [m.name for m in metrics()], "type": "string"}
        return {"anyOf": [listed, {"pattern": f"^{SCORER_NAME.pattern}$", "type": "string"}]}


def _known_metric(name: str) -> str:
    names = [m.name for m in metrics()]
    if name not in names and not SCORER_NAME.fullmatch(name):
        expected = f"{', '.join(map(repr, names[:-1]))} or {names[-1]!r}"
        raise PydanticKnownError("literal_error", {"expected": expected})
    return name


#: The name of a metric of the list, or of a scorer's.
MetricName = Annotated[str, _OfMetrics()]


class GuardEntry(Section):
    """One guard rail: the metric, its rule and limit, what the plan has, and whether it kept a better plan out.

    Of quality metrics it is the mean paired difference, so a largest drop of 0.3 is a limit of −0.3, at least.
    """

    metric: MetricName
    rule: Literal["at least", "at most"]
    limit: float
    value: float | None
    bound: bool


class BudgetSection(Section):
    """The budget as it was asked for, the hard limit it became, and what else the plan had to keep."""

    text: str
    kind: Literal["seconds", "macs"]
    quantile: Literal["median", "p95"]
    limit: Annotated[float, Field(gt=0)]
    share: Annotated[float, Field(gt=0)]
    unit: BudgetUnit
    batch_size: Annotated[int, Field(ge=1)]
    guards: list[GuardEntry] = Field(default_factory=list)


def knobs_section() -> type[Section]:
    """The section of the settings to use: a field per knob of the table, in its range."""
    return _section_of(table())


@lru_cache(maxsize=8)  # one class for one table, so that two readings of a file are equal
def _section_of(rows: tuple[Knob, ...]) -> type[Section]:
    fields: dict[str, Any] = {}
    for row in rows:
        default = row.neutral if row.optional else ...
        if row.choices:
            fields[row.field] = Literal[row.choices], Field(default, description=row.help)
        else:
            fields[row.field] = row.kind, Field(default, ge=row.low, le=row.high, description=row.help)
    made: type[Section] = create_model(
        "KnobsSection", __base__=Section, __doc__="The settings to use.", __module__=__name__, **fields
    )
    return made


@dataclass(frozen=True)
class _Made:
    """Lets a section be checked against a table as it is when a file is read.

    Args:
        section: makes the section's class of the table.
    """

    section: Callable[[], type[Section]]

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(
            lambda data: data if isinstance(data, Section) else self.section().model_validate(data),
            serialization=core_schema.plain_serializer_function_ser_schema(lambda section: section.model_dump()),
        )

    def __get_pydantic_json_schema__(self, schema: core_schema.CoreSchema, handler: Any) -> Any:
        return handler(self.section().__pydantic_core_schema__)


#: The settings to use; its fields are the knobs of the table.
KnobsSection = Annotated[Section, _Made(knobs_section)]


class PlanSection(Section):
    """What the settings compile to; checked against the knobs on loading."""

    plan_id: str
    n_low: Annotated[int, Field(ge=0)]
    gate_step: Annotated[int, Field(ge=1)]
    refresh_steps: list[int]
    noise: Noise
    switch: SwitchWay = "renoise"
    latent_multiple: Annotated[int, Field(ge=1)]


class Cost(Section):
    """What one image costs."""

    macs: float
    macs_paper: float


class Comparison(Section):
    """A paired difference, mostly to the baseline: mean over prompts and 95 % confidence interval.

    The interval allows for the choice among finalists: its lower end lies further from the mean than its upper end.
    """

    mean: float
    low: float
    high: float
    num_prompts: Annotated[int, Field(ge=1)]


class MetricResult(Section):
    """One quality metric of the plan, in the metric's unit.

    ``spread`` is how much the baseline's own value moves with the seed alone (standard deviation), ``weight`` counts in
    what the search improves (0 for a scorer that only judges), ``delta`` is the difference that ``equivalent`` means to
    stay within.
    """

    metric: str
    score: float
    baseline_score: float
    difference: Comparison
    spread: Annotated[float, Field(gt=0)]
    weight: Annotated[float, Field(ge=0)]
    delta: Annotated[float, Field(gt=0)]
    verdict: Verdict


class ExpectedSection(Section):
    """What the settings cost and lose, on prompts that the search did not see where ``confirmed``.

    ``metrics`` has every quality metric; ``score``, ``difference`` and ``delta`` repeat the first of them. ``verdict``
    is over all: *better* means better in one and significantly worse in none. The fidelity metrics, a field each,
    compare images with those that the baseline makes for the same prompts and seeds; None where not measured.
    """

    cost: Cost
    baseline_cost: Cost
    relative_macs: float
    metric: str
    score: float
    baseline_score: float
    difference: Comparison
    delta: Annotated[float, Field(gt=0)]
    verdict: Verdict
    prompts_to_decide: int | None
    confirmed: bool
    if TYPE_CHECKING:
        #: It follows the fidelity metrics in the file, so ``expected_section`` adds it behind them.
        metrics: list[MetricResult]

    @property
    def fidelity(self) -> dict[str, float | None]:
        """The fidelity metrics by name."""
        return {name: getattr(self, name) for name in type(self).model_fields if name in _comparison_names()}


def _comparison_names() -> tuple[str, ...]:
    return tuple(m.name for m in comparisons())


def expected_section() -> type[Section]:
    """The section of cost and quality: with a field per fidelity metric of the list."""
    return _section_with(tuple((m.name, f"{m.label}: {m.unit}; {m.direction} is nearer.") for m in comparisons()))


@lru_cache(maxsize=8)  # one class for one list, so that two readings of a file are equal
def _section_with(fidelity: tuple[tuple[str, str], ...]) -> type[Section]:
    fields: dict[str, Any] = {name: (float | None, Field(None, description=text)) for name, text in fidelity}
    fields["metrics"] = list[MetricResult], Field(default_factory=list)
    made: type[Section] = create_model(
        "ExpectedSection", __base__=ExpectedSection, __doc__=ExpectedSection.__doc__, __module__=__name__, **fields
    )
    return made


#: What the settings cost and lose; its fidelity metrics are those of the list.
Expected = Annotated[ExpectedSection, _Made(expected_section)]


class ScorerEntry(Section):
    """A scorer that judges beside the one that was searched on: its metric, how it is written, its fingerprint."""

    metric: Annotated[str, Field(pattern=f"^{SCORER_NAME.pattern}$")]
    scorer: str
    scorer_sha256: str


class EvidenceSection(Section):
    """What the figures rest on; ``study`` is the folder or address of the study, ``notes`` say what is thin.

    ``num_prompts`` is the number that was asked for; the search used half as many, and ``num_held_out`` judged the plan
    (0 where none did). ``scorer`` was searched on, ``also`` judged beside it. ``restrictions`` are knobs that the
    search held to some values. ``minimum_detectable_difference`` is the smallest true difference of the score that is
    found in four such studies of five.
    """

    prompt_set: Address
    prompt_set_sha256: str
    num_prompts: Annotated[int, Field(ge=1)]
    num_held_out: Annotated[int, Field(ge=0)]
    held_out_sha256: str
    seed: int
    scorer: str
    scorer_sha256: str
    search: str
    trials: Annotated[int, Field(ge=0)]
    images: Annotated[int, Field(ge=0)]
    minimum_detectable_difference: float
    study: Address
    notes: list[str]
    restrictions: list[str] = Field(default_factory=list)
    also: list[ScorerEntry] = Field(default_factory=list)


class EnvironmentSection(Section):
    """Where the images were scored. Older profiles do not say ``compile``, how the denoiser is compiled, ``attention``,
    what computes it in each network, and ``memory_format``, how its weights lie in memory.
    """

    device: str
    versions: dict[str, str]
    compile: CompileMode | None = None
    attention: dict[str, str] | None = None
    memory_format: MemoryFormat | None = None
