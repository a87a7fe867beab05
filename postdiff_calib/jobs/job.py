"""What ``postdiff calibrate`` was asked for."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from postdiff_calib.cost.budget import Budget, parse_budget
from postdiff_calib.errors import UsageError
from postdiff_calib.files import safe_name
from postdiff_calib.models.deployment import MODELS_OWN, DeploymentSettings
from postdiff_calib.scores.names import SHARED_DATABASE, STUDY_NAME
from postdiff_calib.search.restrict import Restriction
from postdiff_calib.techniques.noise import DEFAULT_NOISE

#: Fewer prompts to judge on tell nothing.
LEAST_PROMPTS = 10


@dataclass(frozen=True)
class CalibrateJob:
    """What ``postdiff calibrate`` was asked for; see its help for the meaning of each field.

    ``devices`` are those of the processes that share the work: the first is the calibration's own.

    ``prompts`` and ``num_prompts`` None take the model's own set and size, ``column`` and ``category`` the columns
    of the usual names (``prompts.formats``), ``trials`` None a number that suits that
    (``search.strategies.default_trials``), ``study`` None a folder under ``studies/``. ``deployment`` is how the
    deployment makes its images, as far as it is not as the model's own. ``compile`` is a mode of
    ``accelerate.compiled``. ``delta`` and ``weight`` are per metric as ``scores.objective.parse_per_metric`` reads
    them. ``storage`` is the URL of a database that ``postdiff worker`` processes share; by default the study's folder
    holds one. ``switch`` None is what suits the model's scheduler. ``refresh`` measures anew what seconds were known.
    ``max_drop`` and ``guards`` are guard rails as ``scores.guards`` reads them. ``scorer`` is what is searched
    on, None the model's own, ``also`` judge beside it;
    both as ``quality.scorers`` reads them.
    """

    model: str = "shapes"
    budget: Budget = parse_budget("60%")  # noqa: RUF009  # frozen
    prompts: str | None = None
    column: str | None = None
    category: str | None = None
    num_prompts: int | None = None
    trials: int | None = None
    seed: int = 0
    out: Path = Path("profile.yaml")
    study: Path | None = None
    noise: str = DEFAULT_NOISE
    switch: str | None = None
    search: str = "postdiff"
    device: str = "auto"
    dtype: str = "auto"
    compile: str = "off"
    deployment: DeploymentSettings = MODELS_OWN
    delta: tuple[str, ...] = ()
    weight: tuple[str, ...] = ()
    max_drop: tuple[str, ...] = ()
    guards: tuple[str, ...] = ()
    restrictions: tuple[Restriction, ...] = ()
    scorer: str | None = None
    also: tuple[str, ...] = ()
    fresh: bool = False
    refresh: bool = False
    storage: str | None = None
    devices: tuple[str, ...] = ()
    study_name: str = STUDY_NAME

    @property
    def shared_storage(self) -> str | None:
        """The database that workers share: as given, or one in the study's folder where several devices are named."""
        if self.storage is not None or len(self.devices) < 2:
            return self.storage
        return f"sqlite:///{os.path.abspath(self.folder / SHARED_DATABASE)}"

    @property
    def folder(self) -> Path:
        """The study's folder."""
        return self.study or Path("studies") / safe_name(self.model, "model")


def parse_devices(text: str) -> tuple[str, ...]:
    """Devices with commas between them, e.g. ``cuda:0,cuda:1``; one may be named more than once.

    Raises:
        UsageError: one of them is empty.
    """
    devices = tuple(device.strip() for device in text.split(","))
    if not all(devices):
        raise UsageError(f"--devices {text}", "devices have commas between them", "write cuda:0,cuda:1")
    return devices
