"""Is this a study's record? Types and ranges of everything in ``study.json``, before anything rests on it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from postdiff_calib.profile.sections import EnvironmentSection, EvidenceSection, ModelSection
from postdiff_calib.techniques.noise import Noise, SwitchWay

_Positive = Annotated[float, Field(gt=0)]
_Count = Annotated[int, Field(ge=0)]
_AtLeastOne = Annotated[int, Field(ge=1)]


class _Part(BaseModel):
    """Strict about keys and types."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=())


class _Asked(_Part):
    model: str
    budget: str
    trials: _Count
    seed: Annotated[int, Field(ge=0, lt=2**63)]
    prompts: str | None
    column: str | None = None
    category: str | None = None
    search: str
    delta: list[str]
    weight: list[str]
    max_drop: list[str]
    guards: list[str]
    deployment: dict[str, Any] = {}
    restrictions: list[str] = []
    scorer: str | None = None
    also: list[str] = []


class _Settings(_Part):
    height: _AtLeastOne
    width: _AtLeastOne
    guidance_scale: Annotated[float, Field(ge=0)]
    batch_size: _AtLeastOne
    noise: Noise
    latent_multiple: _AtLeastOne
    negative_prompt: str | None = None
    switch: SwitchWay = "renoise"


class _Term(_Part):
    metric: str
    spread: _Positive
    weight: Annotated[float, Field(ge=0)]
    delta: _Positive


class _Searched(_Part):
    limit: tuple[
        Literal["macs", "seconds"], Literal["median", "p95"], _Positive, _Positive, str, Literal["call", "image"]
    ]
    finalists: list[str]
    unfound: tuple[float | None, float | None] | None
    fits: dict[Literal["step_reduction", "cheaper_steps", "combined"], bool]


class _WholeCalls(_Part):
    plan_id: str
    batch_size: _AtLeastOne
    seconds: Annotated[list[_Positive], Field(min_length=2)]
    baseline: Annotated[list[_Positive], Field(min_length=2)]


class _Record(_Part):
    asked: _Asked
    settings: _Settings
    fingerprint: dict[str, Any]
    num_inference_steps: Annotated[int, Field(ge=1, le=1000)]
    model: ModelSection
    evidence: EvidenceSection
    environment: EnvironmentSection
    calibration: list[str]
    held_out: list[str]
    held_out_categories: list[str] = []
    trials: _Count = 0
    failed: list[tuple[str, str]] = []
    objective: list[_Term] = []
    searched: list[_Searched] = []
    fitting: _AtLeastOne | None = None
    whole_calls: _WholeCalls | None = None

    @model_validator(mode="after")
    def _a_category_each(self) -> _Record:
        if self.held_out_categories and len(self.held_out_categories) != len(self.held_out):
            raise ValueError(f"{len(self.held_out_categories)} categories for {len(self.held_out)} held-out prompts")
        return self


def check_record(data: Mapping[str, Any]) -> None:
    """Refuse a record in which a value has the wrong type or is out of its range; its cost table is left alone.

    Args:
        data: ``StudyRecord.as_dict``'s, as it was read.

    Raises:
        ValueError: says which value, and what it must be.
    """
    try:
        _Record.model_validate_json(json.dumps({key: value for key, value in data.items() if key != "cost"}))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "record"
        raise ValueError(f"{where}: {first['msg']}") from error
