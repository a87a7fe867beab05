"""A profile as a script that makes images as it says, and needs no file beside itself."""

from __future__ import annotations

import keyword
from typing import Any

from postdiff_calib.errors import ProfileError
from postdiff_calib.models.cards import get_card
from postdiff_calib.models.hub import is_commit, on_hub
from postdiff_calib.models.single_file import is_single_file
from postdiff_calib.profile import Profile
from postdiff_calib.profile.sections import ModelSection
from postdiff_calib.quality.metrics import SCORE, SCORER_NAME, metric

#: How a script gets at postdiff's own loader.
LOADER = "from postdiff_calib.models.load import load_pipeline"


def python_script(profile: Profile) -> str:
    """A script that makes images as the profile says, through postdiff's own loader."""
    imports, load = _own_loading(profile)
    return _script(
        profile,
        imports=("from postdiff_calib import Knobs, accelerated", *imports),
        constants={"MODEL": profile.model_to_load, "DTYPE": profile.model.dtype},
        load=load,
        attach=(f"with accelerated(pipe, KNOBS, {_options(profile)}), torch.inference_mode():",),
    )


def diffusers_script(profile: Profile) -> str:
    """A script of plain diffusers, plus the one import that accelerates its pipeline.

    What diffusers' own loader does not do alone goes through postdiff's.
    """
    model = profile.model
    imports: tuple[str, ...] = ("from postdiff_calib import Knobs, enable",)
    constants: dict[str, Any] = {"MODEL": model.id}
    # An embedded model's autoencoder is of a class of postdiff's own.
    embedded = model.card is not None and get_card(model.card).embedded
    if embedded or model.loras or model.vae or model.variant or is_single_file(model.id):
        own, load = _own_loading(profile)
        imports += own
        constants = {"MODEL": profile.model_to_load, "DTYPE": model.dtype}
    else:
        imports, load = _stock_loading(profile, imports, constants)
    attach = (f"enable(pipe, KNOBS, {_options(profile)})", "with torch.inference_mode():")
    return _script(profile, imports, constants, load, attach)


def _own_loading(profile: Profile) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Imports and statements that load a model through postdiff, as the calibration was asked to load it."""
    model, asked_of = profile.model, profile.deployment
    named = {"revision": asked_of.revision, "loras": asked_of.loras, "vae": asked_of.vae, "variant": asked_of.variant}
    given = [f"{name}={value!r}" for name, value in named.items() if value]
    if model.scheduler_config is not None:
        given += [f"scheduler={model.scheduler!r}", f"scheduler_config={tuple(model.scheduler_config.items())!r}"]
    if not given:
        return (LOADER,), ("pipe = load_pipeline(MODEL, dtype=DTYPE).pipe",)
    asked = ", ".join(given)
    return (LOADER, "from postdiff_calib.models.deployment import DeploymentSettings"), (
        f"settings = DeploymentSettings({asked})",
        "pipe = load_pipeline(MODEL, dtype=DTYPE, settings=settings).pipe",
    )


def _require_commits(model: ModelSection) -> None:
    """Refuse a script that would load what a branch has become in the place of what was calibrated.

    Raises:
        ProfileError: it is on the hub, and the profile names no commit.
    """
    card = get_card(model.card) if model.card else None
    places = [(model.id, model.revision)] if model.revision != "local" or on_hub(model.id) else []
    if card is not None and card.unet_hub_id is not None:
        places.append((card.unet_hub_id, model.unet_revision or ""))
    for place, commit in places:
        if not is_commit(commit) and not (card is not None and card.embedded):
            rule = f"it names no commit of {place}, and a branch moves"
            remedy = f"calibrate at one: --model {model.card or place}@COMMIT"
            raise ProfileError(f"profile for {model.id}", rule, remedy)


def _stock_loading(
    profile: Profile, imports: tuple[str, ...], constants: dict[str, Any]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Imports and statements that load a stock pipeline as ``models.load`` does; adds the constants they name."""
    from postdiff_calib.models.families import family_named
    from postdiff_calib.models.scheduler import scheduler_settings

    model = profile.model
    dtype = f"torch.{_identifier(model.dtype)}"
    pipeline, scheduler = _identifier(model.pipeline_class), _identifier(model.scheduler)
    names = {pipeline, scheduler}
    unet = get_card(model.card).unet_hub_id if model.card else None
    arguments = ["MODEL", f"dtype={dtype}", "use_safetensors=True"]
    lines = []
    if unet is not None:
        names.add("UNet2DConditionModel")
        constants |= {"UNET": unet, "UNET_REVISION": model.unet_revision}
        lines += [
            "unet = UNet2DConditionModel.from_pretrained(",
            f"    UNET, revision=UNET_REVISION, dtype={dtype}, use_safetensors=True",
            ")",
        ]
        arguments += ["unet=unet"]
    if model.revision != "local":
        constants["REVISION"] = model.revision
        arguments += ["revision=REVISION"]
    family = family_named(pipeline)
    if family is not None and family.safety_checked:
        arguments += ["safety_checker=None", "requires_safety_checker=False"]
    asked = {_identifier(name): value for name, value in (model.scheduler_config or {}).items()}
    given = {**scheduler_settings(scheduler), **asked}
    settings = "".join(f", {name}={value!r}" for name, value in given.items())
    changed = "".join(f", {name}={value!r}" for name, value in asked.items())
    otherwise = ("else:", f"    pipe.scheduler = {scheduler}.from_config(pipe.scheduler.config{changed})")
    lines += [
        f"pipe = {pipeline}.from_pretrained(",
        *(f"    {argument}," for argument in arguments),
        ")",
        f"if type(pipe.scheduler) is not {scheduler}:",
        f"    pipe.scheduler = {scheduler}.from_config(pipe.scheduler.config{settings})",
        *(otherwise if asked else ()),
        'pipe.to("cuda" if torch.cuda.is_available() else "cpu")',
    ]
    return (f"from diffusers import {', '.join(sorted(names))}", *imports), tuple(lines)


def _script(
    profile: Profile,
    imports: tuple[str, ...],
    constants: dict[str, Any],
    load: tuple[str, ...],
    attach: tuple[str, ...],
) -> str:
    """The whole script. Text from the profile enters as Python literals only, never as code."""
    _require_commits(profile.model)
    model, e = profile.model, profile.expected
    m, d = metric(e.metric if SCORER_NAME.fullmatch(e.metric) else SCORE), e.difference
    mean, low, high = (m.show(one, signed=True) for one in (d.mean, d.low, d.high))
    constants = {
        "ABOUT": (
            f"{profile.knobs.describe()}: {e.relative_macs:.0%} of the baseline's MACs for a budget of "
            f"{profile.budget.text}, {m.label} {mean} [{low}, {high}] against the baseline"
        ),
        **constants,
        "HEIGHT": model.height,
        "WIDTH": model.width,
        "GUIDANCE_SCALE": model.guidance_scale,
        **({} if model.negative_prompt is None else {"NEGATIVE_PROMPT": model.negative_prompt}),
    }
    knobs = (f"    {name}={value!r}," for name, value in profile.knobs.as_dict().items())
    lines = [
        '"""Makes an image with settings that postdiff calibrated; needs postdiff installed, and no other file.',
        "",
        '    python THIS_FILE "a prompt" --seed 0 --out image.png',
        '"""',
        "",
        "import argparse",
        "",
        "import torch",
        *sorted(imports),
        "",
        *(f"{name} = {value!r}" for name, value in constants.items()),
        "KNOBS = Knobs(",
        *knobs,
        ")",
        "",
        "parser = argparse.ArgumentParser()",
        'parser.add_argument("prompt")',
        'parser.add_argument("--seed", type=int, default=0)',
        'parser.add_argument("--out", default="image.png")',
        "arguments = parser.parse_args()",
        "",
        *load,
        "",
        *attach,
        "    image = pipe(",
        "        arguments.prompt,",
        "        height=HEIGHT,",
        "        width=WIDTH,",
        "        num_inference_steps=KNOBS.num_inference_steps,",
        *(f"        {name}={value}," for name, value in _guidance(model).items()),
        *(() if model.negative_prompt is None else ("        negative_prompt=NEGATIVE_PROMPT,",)),
        '        generator=torch.Generator("cpu").manual_seed(arguments.seed),',
        "    ).images[0]",
        "image.save(arguments.out)",
        'print(f"{arguments.out}: {ABOUT}")',
    ]
    return "\n".join(lines) + "\n"


def _guidance(model: Any) -> dict[str, str]:
    """The arguments of a call that set guidance, as code."""
    from postdiff_calib.models.families import family_named

    family = family_named(model.pipeline_class)
    given = family.scale_arguments(model.guidance_scale) if family is not None else {"guidance_scale": None}
    return {name: repr(value) if isinstance(value, str) else "GUIDANCE_SCALE" for name, value in given.items()}


def _options(profile: Profile) -> str:
    """How the profile's knobs are attached: knobs that round to nothing are taken as they were calibrated."""
    way = f"noise={profile.noise!r}, switch={profile.switch!r}"
    return f"{way}, latent_multiple={profile.latent_multiple}, strict=False"


def _identifier(name: str) -> str:
    """A name that may stand in code.

    Raises:
        ProfileError: it is no such name.
    """
    if not name.isascii() or not name.isidentifier() or keyword.iskeyword(name):
        raise ProfileError(f"class {name!r}", "it is not a name that can stand in a script", "correct the profile")
    return name
