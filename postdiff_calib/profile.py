"""The deployment profile: what calibration found, as a YAML file that a deployment can load, check and run.

Strict on reading: an unknown key, a wrong type, a value out of range or a newer schema is an error that names the file,
the line and the key. Written atomically, with a comment above each section. Holds no secrets: the storage address of a
study is written without its password.

Units: ``macs`` are multiply-accumulates per image over all network calls of the denoising loop (1 MAC = 2 FLOPs),
``seconds`` are wall-clock seconds per image at the stated batch size, ``score`` is 100 × the cosine of a CLIP model.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from postdiff_calib.errors import KnobError, OutputError, ProfileError
from postdiff_calib.knobs import RANGES, Knobs
from postdiff_calib.plan import compile_plan, plan_facts

SCHEMA_VERSION = 1

Verdict = Literal["better", "equivalent", "worse", "undecided"]


def _range(name: str) -> Any:
    low, high = RANGES[name]
    return Field(ge=low, le=high)


class Section(BaseModel):
    """Base of every section: immutable, and strict about keys and types."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, protected_namespaces=())


class ModelSection(Section):
    """The pipeline that was calibrated; a profile refuses to run on another one."""

    id: str
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
    notes: list[str]


class BudgetSection(Section):
    """The budget as it was asked for, and the hard limit it became."""

    text: str
    kind: Literal["seconds", "macs"]
    quantile: Literal["median", "p95"]
    limit: Annotated[float, Field(gt=0)]
    share: Annotated[float, Field(gt=0)]
    unit: Literal["s per image", "MACs per image"]
    batch_size: Annotated[int, Field(ge=1)]


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

    ``delta`` is the difference that ``equivalent`` means to stay within.
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
    """What the figures rest on."""

    prompt_set: str
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
    study: str


class EnvironmentSection(Section):
    """Where the figures were measured."""

    device: str
    versions: dict[str, str]


#: Comment written above each section.
COMMENTS: dict[str, str] = {
    "schema_version": "Deployment profile of postdiff. Load it with postdiff_calib.load_profile(path).",
    "model": "The pipeline this profile was made for. It refuses to run on another.",
    "budget": "What was asked for, and the limit it became. No plan over the limit was ever run.",
    "knobs": "The settings to use: the paper's T, s, β, k, m, then the cache branch and the cross-attention cache.",
    "plan": "What the settings compile to, step numbers counted from 0.",
    "expected": "Cost and quality against the unaccelerated model, on held-out prompts, with 95 % intervals.",
    "tradeoff": "Fewer steps, cheaper steps, or both: the best of each family at a ladder of budgets.",
    "evidence": "What the figures rest on. Differences below smallest_difference cannot be resolved by this set.",
    "environment": "Where the figures were measured.",
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
        """What differs between ``pipe`` and the pipeline this profile was made for, by class; empty when nothing does.

        Weights are compared by the loader's fingerprint (``deploy.mismatches``), which a bare pipeline lacks.
        """
        denoiser = getattr(pipe, "unet", None) or getattr(pipe, "transformer", None)
        facts = (
            ("pipeline class", type(pipe).__name__, self.model.pipeline_class),
            ("denoiser class", type(denoiser).__name__, self.model.denoiser_class),
            ("scheduler", type(getattr(pipe, "scheduler", None)).__name__, self.model.scheduler),
        )
        return [f"{what} ({found}, profile: {wanted})" for what, found, wanted in facts if found != wanted]

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
            parts.append(f"# {COMMENTS[key]}\n{body}")
        return "\n".join(parts)

    def save(self, path: str | Path) -> Path:
        """Write the profile atomically; a crash leaves the old file or the new one, never half of one."""
        return write_atomically(path, self.to_yaml())


def write_atomically(path: str | Path, text: str) -> Path:
    """Write text by way of a temporary file in the same folder.

    Raises:
        OutputError: the folder cannot be made or written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as f:
                f.write(text)
                f.flush()
                os.fsync(f.fileno())
            os.chmod(name, 0o644)
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise OutputError(
            f"output {path}", f"it cannot be written ({error.strerror})", "choose another path"
        ) from error
    return path


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
    try:
        tree = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "it cannot be parsed"
        raise ProfileError(f"{name}{line}", f"not valid YAML ({problem})", "correct the file") from error
    if not isinstance(data, dict):
        raise ProfileError(name, "a profile is a mapping of sections", "write one with 'postdiff calibrate'")
    version = data.get("schema_version")
    if isinstance(version, int) and version > SCHEMA_VERSION:
        where = f"{name}, line {_line(tree, ('schema_version',))}, schema_version: {version}"
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
    where = f"{name}, line {_line(tree, location)}, {key}"
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, KnobError):
        return ProfileError(f"{where}: {cause.given}", cause.rule, cause.remedy)
    if first["type"] == "extra_forbidden":
        return ProfileError(where, "unknown key", "remove it or correct its name")
    if first["type"] == "missing":
        return ProfileError(where, "this key is missing", "add it, or export the profile again")
    given = f" (given: {first['input']!r})" if not isinstance(first["input"], (dict, list)) else ""
    return ProfileError(where, f"{first['msg'].removeprefix('Value error, ')}{given}", "correct the value")


def _line(tree: Any, location: tuple[Any, ...]) -> int:
    """Line number (from 1) of the deepest part of ``location`` that exists in the YAML tree."""
    node, line = tree, 1
    for part in location:
        if isinstance(node, yaml.MappingNode):
            found = [(k, v) for k, v in node.value if k.value == str(part)]
            if not found:
                break
            line, node = found[0][0].start_mark.line + 1, found[0][1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            break
    return line


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a profile."""
    schema = Profile.model_json_schema(by_alias=True)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
