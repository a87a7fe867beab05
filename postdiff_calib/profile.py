"""The deployment profile: what calibration found, as a YAML file that a deployment can load, check and run.

Strict on reading: an unknown key, a wrong type, a value out of range or a newer schema is an error that names the file,
the line and the key. Written atomically, with a comment above each section. Holds no secrets: the storage address of a
study is written without its password.

Units: ``macs`` are multiply-accumulates per image over all network calls of the denoising loop (1 MAC = 2 FLOPs),
``seconds`` are wall-clock seconds per image at the stated batch size, ``score`` is 100 × the cosine of a CLIP model.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from postdiff_calib.errors import KnobError, ProfileError
from postdiff_calib.files import line_of, read_yaml, without_passwords
from postdiff_calib.files import write_atomically as write_atomically
from postdiff_calib.knobs import RANGES, Knobs
from postdiff_calib.plan import compile_plan, plan_facts

SCHEMA_VERSION = 1

Verdict = Literal["better", "equivalent", "worse", "undecided"]
#: Text that may hold an address; one with a password is kept without it.
Address = Annotated[str, AfterValidator(without_passwords)]


def _range(name: str) -> Any:
    low, high = RANGES[name]
    return Field(ge=low, le=high)


class Section(BaseModel):
    """Base of every section: immutable, and strict about keys and types."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, protected_namespaces=())


class ModelSection(Section):
    """The pipeline that was calibrated; a profile refuses to run on another one.

    ``fingerprint`` is of its weights, ``configuration`` of its networks' and scheduler's settings.
    """

    id: Address
    card: str | None
    revision: str
    pipeline_class: str
    denoiser_class: str
    fingerprint: str
    dtype: str
    height: Annotated[int, Field(ge=8)]
    width: Annotated[int, Field(ge=8)]
    scheduler: str
    guidance_scale: Annotated[float, Field(ge=0)]
    configuration: str | None = None
    notes: list[str]


class GuardEntry(Section):
    """One guard rail: the metric, its rule and limit, what the plan has, and whether it kept a better plan out.

    ``clip`` is the mean paired difference of the score, so a largest drop of 0.3 is a limit of −0.3, at least.
    """

    metric: Literal["clip", "cmmd", "ssim", "psnr", "lpips"]
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
    unit: Literal["s per image", "MACs per image"]
    batch_size: Annotated[int, Field(ge=1)]
    guards: list[GuardEntry] = Field(default_factory=list)


class KnobsSection(Section):
    """The settings to use."""

    num_inference_steps: Annotated[int, _range("num_inference_steps")]
    low_res_fraction: Annotated[float, _range("low_res_fraction")]
    low_res_scale: Annotated[float, _range("low_res_scale")]
    cache_interval: Annotated[int, _range("cache_interval")]
    guidance_fraction: Annotated[float, _range("guidance_fraction")]
    cache_branch: Annotated[int, _range("cache_branch")]
    cross_attention_cache: Literal["cond", "mean", "off"]


class PlanSection(Section):
    """What the settings compile to; checked against the knobs on loading."""

    content: str
    n_low: Annotated[int, Field(ge=0)]
    gate_step: Annotated[int, Field(ge=1)]
    refresh_steps: list[int]
    noise: Literal["coupled", "independent"]
    latent_multiple: Annotated[int, Field(ge=1)]


class Cost(Section):
    """What one image costs; seconds are absent where nothing was timed."""

    macs: float
    macs_paper: float
    seconds: float | None
    seconds_p95: float | None


class Comparison(Section):
    """A paired difference to the unaccelerated model: mean over prompts and 95 % confidence interval."""

    mean: float
    low: float
    high: float
    num_prompts: Annotated[int, Field(ge=1)]


class ExpectedSection(Section):
    """What the settings cost and lose, on prompts that the search did not see where ``confirmed``.

    ``delta`` is the difference that ``equivalent`` means to stay within. ``cmmd`` (of all pictures; noisy with few
    prompts), ``ssim``, ``psnr`` in dB and ``lpips`` (means over prompts) compare pictures with those that the
    unaccelerated model makes for the same prompts and seeds; None where not measured.
    """

    cost: Cost
    baseline_cost: Cost
    relative_macs: float
    relative_seconds: float | None
    metric: str
    score: float
    baseline_score: float
    difference: Comparison
    delta: Annotated[float, Field(gt=0)]
    verdict: Verdict
    prompts_to_decide: int | None
    confirmed: bool
    cmmd: float | None = None
    ssim: float | None = None
    psnr: float | None = None
    lpips: float | None = None


class ArmResult(Section):
    """The best plan of one family under a budget."""

    knobs: str
    content: str
    relative_macs: float
    seconds: float | None
    difference: Comparison
    confirmed: bool


class TradeoffRow(Section):
    """The paper's question at one budget: fewer steps, cheaper steps, or both?"""

    share: Annotated[float, Field(gt=0)]
    fewer: ArmResult | None
    cheaper: ArmResult | None
    joint: ArmResult | None
    cheaper_minus_fewer: Comparison | None
    winner: Literal["fewer", "cheaper", "tie", "undecided"]
    answer: str


class TradeoffSection(Section):
    """The three families compared at a ladder of budgets, and where the better one changes."""

    rows: list[TradeoffRow]
    crossover: str | None


class EvidenceSection(Section):
    """What the figures rest on; ``study`` is the folder or address of the study, ``notes`` say what is thin."""

    prompt_set: Address
    prompt_set_sha256: str
    num_prompts: Annotated[int, Field(ge=1)]
    num_held_out: Annotated[int, Field(ge=0)]
    held_out_sha256: str
    seed: int
    scorer: str
    scorer_sha256: str
    sampler: str
    trials: Annotated[int, Field(ge=0)]
    images: Annotated[int, Field(ge=0)]
    smallest_difference: float
    study: Address
    notes: list[str]


class EnvironmentSection(Section):
    """Where the figures were measured; ``latency_device`` is the hardware whose seconds they are."""

    device: str
    latency_device: str | None
    versions: dict[str, str]


#: Comment written above each section, for someone who has never seen such a file.
COMMENTS: dict[str, str] = {
    "schema_version": (
        "A profile of postdiff: how to run one text-to-image model within a budget, and what that costs and loses.\n"
        'Use it:     postdiff generate --profile THIS_FILE "a prompt"\n'
        "Read it:    postdiff profile show THIS_FILE\n"
        "In Python:  postdiff_calib.enable(pipe, postdiff_calib.load_profile(path))\n"
        "The number is the version of this file's format."
    ),
    "model": (
        "The model that was measured. The settings below are refused on any other: the figures would not hold there.\n"
        "height and width are in pixels; fingerprint is a hash of the networks and their weights."
    ),
    "budget": (
        "What one image may cost: text as it was asked for, limit as the hard upper bound it became, share as a part\n"
        "of the unaccelerated model's cost. No plan over the limit was chosen. batch_size: images per call.\n"
        "guards: what the plan had to keep beside; bound marks those that kept a plan of a higher score out."
    ),
    "knobs": (
        "The settings to use. num_inference_steps (T): denoising steps. low_res_fraction (s): share of the steps, the\n"
        "early ones, run at low_res_scale (β) of the side. cache_interval (k): the deep blocks run every k-th step.\n"
        "guidance_fraction (m): share of the steps with guidance. cache_branch: how little of the network runs in\n"
        "between. cross_attention_cache: what stands in for cross-attention once guidance has ended."
    ),
    "plan": (
        "What the settings come to, steps counted from 0: n_low steps at low resolution, guidance before gate_step,\n"
        "deep blocks run on refresh_steps. content is a hash of it. noise: how a seed's low-resolution start is made."
    ),
    "expected": (
        "Cost per image and score, with the same for the unaccelerated model. macs are multiply-accumulates of all\n"
        "denoising steps (macs_paper leaves out attention's own products), seconds are medians of a whole call.\n"
        "difference: this plan's score minus the unaccelerated model's on the same prompts and seeds, mean and 95 %\n"
        "interval. verdict: better, equivalent (within delta), worse, or undecided. confirmed: on prompts that the\n"
        "search never saw. cmmd (lower is nearer), ssim, psnr (higher) and lpips (lower) compare pictures with the\n"
        "unaccelerated model's."
    ),
    "tradeoff": (
        "Fewer steps, cheaper steps, or both? The best plan of each kind at several budgets (share of the\n"
        "unaccelerated cost), and between which budgets the better kind changes, if it does."
    ),
    "evidence": (
        "What the figures rest on: prompts, seeds, the scoring model, the search. Score differences below\n"
        "smallest_difference cannot be told from zero with this many prompts. notes say what is thin."
    ),
    "environment": (
        "Where it was measured: device made the scored images, latency_device is the hardware whose seconds these are."
    ),
}


class Profile(Section):
    """A whole profile; ``knobs`` are the settings, ``settings`` the file's section of the same name."""

    schema_version: int
    model: ModelSection
    budget: BudgetSection
    settings: KnobsSection = Field(alias="knobs")
    plan: PlanSection
    expected: ExpectedSection
    tradeoff: TradeoffSection
    evidence: EvidenceSection
    environment: EnvironmentSection

    @property
    def knobs(self) -> Knobs:
        """The settings as ``Knobs``, ready for ``enable``."""
        return Knobs(**self.settings.model_dump())

    @property
    def noise(self) -> str:
        """How low-resolution starting noise is made: ``coupled`` or ``independent``."""
        return self.plan.noise

    @property
    def latent_multiple(self) -> int:
        """The multiple that low-resolution latent sides are rounded to."""
        return self.plan.latent_multiple

    @property
    def generation(self) -> dict[str, Any]:
        """How pictures are made with this profile: the keyword arguments of ``generate``."""
        return {
            "height": self.model.height,
            "width": self.model.width,
            "guidance_scale": self.model.guidance_scale,
            "batch_size": self.budget.batch_size,
            "noise": self.noise,
            "latent_multiple": self.latent_multiple,
        }

    def pipeline_mismatches(self, pipe: Any) -> list[str]:
        """What differs between ``pipe`` and the pipeline this profile was made for; empty when nothing does.

        Classes, then the configuration of networks and scheduler. A control network beside the same model is no
        difference. Weights are compared by the loader's fingerprint (``deploy.mismatches``), which a bare pipeline
        lacks.
        """
        from postdiff_calib.models.fingerprint import configuration_of

        denoiser = getattr(pipe, "transformer" if getattr(pipe, "unet", None) is None else "unet", None)
        denoiser = getattr(denoiser, "_orig_mod", denoiser)  # torch.compile wraps it
        pipeline_class = type(pipe).__name__
        if "ControlNet" not in self.model.pipeline_class:
            pipeline_class = pipeline_class.replace("ControlNet", "")
        facts = (
            ("pipeline class", pipeline_class, self.model.pipeline_class),
            ("denoiser class", type(denoiser).__name__, self.model.denoiser_class),
            ("scheduler", type(getattr(pipe, "scheduler", None)).__name__, self.model.scheduler),
        )
        differing = [f"{what} ({has}, profile: {wants})" for what, has, wants in facts if has != wants]
        wanted = self.model.configuration
        if not differing and wanted is not None and (found := configuration_of(pipe)) != wanted:
            differing.append(f"the configuration of a network or the scheduler ({found}, profile: {wanted})")
        return differing

    @model_validator(mode="after")
    def _consistent(self) -> Profile:
        compiled = compile_plan(self.knobs)
        stated = (self.plan.content, self.plan.n_low, self.plan.gate_step, tuple(self.plan.refresh_steps))
        if stated != plan_facts(compiled):
            raise ValueError("the plan section does not follow from the knobs section; export the profile again")
        return self

    def to_dict(self) -> dict[str, Any]:
        """Plain data in file order."""
        return self.model_dump(mode="json", by_alias=True)

    def to_yaml(self) -> str:
        """The file's text: a comment, then the section."""
        parts = []
        for key, value in self.to_dict().items():
            body = yaml.safe_dump({key: value}, sort_keys=False, allow_unicode=True, width=110)
            comment = "".join(f"# {line}\n" for line in COMMENTS[key].splitlines())
            parts.append(comment + body)
        return "\n".join(parts)

    def save(self, path: str | Path) -> Path:
        """Write the profile atomically; a crash leaves the old file or the new one, never half of one."""
        return write_atomically(path, self.to_yaml())


def load_profile(path: str | Path) -> Profile:
    """Read and check a profile.

    Args:
        path: a YAML file as ``postdiff calibrate`` writes it.

    Raises:
        ProfileError: no such file, not YAML, or not a valid profile; names file, line and key.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise ProfileError(f"profile {path}", f"it cannot be read ({reason})", "give a profile's path") from error
    return parse_profile(text, str(path))


def parse_profile(text: str, name: str = "profile") -> Profile:
    """Check the text of a profile; ``name`` stands for it in error messages."""
    data, tree = read_yaml(text, name)
    if not isinstance(data, dict):
        raise ProfileError(name, "a profile is a mapping of sections", "write one with 'postdiff calibrate'")
    version = data.get("schema_version")
    if isinstance(version, int) and version > SCHEMA_VERSION:
        where = f"{name}, line {line_of(tree, ('schema_version',))}, schema_version: {version}"
        raise ProfileError(where, f"this postdiff reads up to {SCHEMA_VERSION}", "upgrade postdiff")
    try:
        # JSON mode: lists for tuples and whole numbers for floats are fine, strings for numbers are not.
        return Profile.model_validate_json(json.dumps(data))
    except (ValidationError, TypeError, ValueError) as error:
        raise _explain(error, tree, name) from error


def _explain(error: Exception, tree: Any, name: str) -> ProfileError:
    if not isinstance(error, ValidationError):
        return ProfileError(name, f"it holds a value that profiles do not use ({error})", "correct the file")
    first = error.errors()[0]
    location = tuple(first["loc"])
    key = ".".join(str(part) for part in location) or "profile"
    where = f"{name}, line {line_of(tree, location)}, {key}"
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, KnobError):
        return ProfileError(f"{where}: {cause.given}", cause.rule, cause.remedy)
    if first["type"] == "extra_forbidden":
        return ProfileError(where, "unknown key", "remove it or correct its name")
    if first["type"] == "missing":
        return ProfileError(where, "this key is missing", "add it, or export the profile again")
    given = f" (given: {first['input']!r})" if not isinstance(first["input"], (dict, list)) else ""
    return ProfileError(where, f"{first['msg'].removeprefix('Value error, ')}{given}", "correct the value")


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a profile."""
    schema = Profile.model_json_schema(by_alias=True)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
