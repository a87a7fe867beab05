"""What the server of ``killing`` has imported before it makes its first child."""

import importlib

from postdiff_calib.search.backend import database

#: A worker that gives no sign of life is missed after three seconds; others take the number from here.
database.HEARTBEAT = 1

for _name in (
    "killing",
    "diffusers",
    "optuna",
    "sqlalchemy.orm",
    "transformers",
    "scipy.stats",
    "postdiff_calib.cli.main",
    "postdiff_calib.jobs.calibrate",
    "postdiff_calib.models.load",
    "postdiff_calib.quality.clip",
    "postdiff_calib.report.terminal",
    "postdiff_calib.search.backend.run",
):
    importlib.import_module(_name)
# diffusers and transformers import their classes when they are first asked for
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel  # noqa: E402, F401
from transformers import CLIPTextModel, CLIPTokenizer  # noqa: E402, F401
