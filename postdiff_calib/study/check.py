"""Is this a study's record? Types and ranges of everything in ``study.json``, before anything rests on it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from postdiff_calib.budget import parse_budget
from postdiff_calib.profile.sections import ModelSection
from postdiff_calib.scores.guards import parse_guards

_Positive = Annotated[float, Field(gt=0)]
_Count = Annotated[int, Field(ge=0)]
_AtLeastOne = Annotated[int, Field(ge=1)]


class _Part(BaseModel):
    """Strict about types; keys that are not named are another version's and are let be."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False, protected_namespaces=())


class _Job(_Part):
    model: str
    budget: str
    prompts: str | None = None
    num_prompts: _AtLeastOne | None = None
    trials: _Count | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)]
    noise: Literal["coupled", "independent"] = "coupled"
    sampler: str = "postdiff"
    dtype: str | None = None
    delta: list[str] = []
    weight: list[str] = []
    max_drop: list[str] = []
    guards: list[str] = []


class _Settings(_Part):
    batch_size: _AtLeastOne
    noise: Literal["coupled", "independent"]
    latent_multiple: _AtLeastOne
    height: _AtLeastOne = 8
    width: _AtLeastOne = 8
    guidance_scale: Annotated[float, Field(ge=0)] = 1.0


class _Evidence(_Part):
    prompt_set: str
    prompt_set_sha256: str
    num_prompts: _AtLeastOne
    held_out_sha256: str
    seed: int
    scorer: str
    scorer_sha256: str
    sampler: str
    study: str


class _Environment(_Part):
    device: str
    versions: dict[str, str]


class _Term(_Part):
    model_config = ConfigDict(extra="forbid")

    metric: str
    spread: _Positive
    weight: _Positive
    delta: _Positive


class _Searched(_Part):
    limit: tuple[Literal["macs", "seconds"], Literal["median", "p95"], _Positive, _Positive]
    finalists: list[str]
    unfound: tuple[float | None, float | None] | None
    fits: dict[Literal["fewer", "cheaper", "joint"], bool]


class _Record(_Part):
    job: _Job
    settings: _Settings
    fingerprint: dict[str, Any]
    num_inference_steps: Annotated[int, Field(ge=1, le=1000)]
    model: ModelSection
    evidence: _Evidence
    environment: _Environment
    calibration: list[str]
    held_out: list[str]
    trials: _Count = 0
    failed: list[tuple[str, str]] = []
    objective: list[_Term] = []
    searched: list[_Searched] = []


def check_record(data: Mapping[str, Any]) -> None:
    """Refuse a record in which a value has the wrong type or is out of its range; its cost table is left alone.

    Args:
        data: ``StudyRecord.as_dict``'s, as it was read.

    Raises:
        ValueError: says which value, and what it must be.
    """
    try:
        record = _Record.model_validate_json(json.dumps({key: value for key, value in data.items() if key != "cost"}))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "record"
        raise ValueError(f"{where}: {first['msg']}") from error
    parse_budget(record.job.budget)
    parse_guards(record.job.max_drop, record.job.guards)
