"""Options that several commands share, written once: they stand in the place of one parameter of the command."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

#: The options that name scorers, wherever they are.
SCORER_HELP = (
    "What judges: ARCH::tag, local-dir:PATH, pickscore, hpsv2, module:function, 'command: …'.  [default: the model's]"
)
#: How many prompts a command takes where nobody says: the cards' own numbers, by model.
DEFAULT_PROMPTS = "[default: 500; shapes: 50, shapes-flow: 80]"
ALSO_HELP = "A scorer that judges beside it and can be guarded; repeatable."


class Shared:
    """A command with a set of options in the place of one of its parameters.

    Args:
        command: takes the parameter by keyword.
        name: of the parameter.
        options: those options, asked for whenever the command line asks what options there are.
        collect: their values by name → the parameter's value.
    """

    def __init__(
        self,
        command: Callable[..., None],
        name: str,
        options: Callable[[], Sequence[inspect.Parameter]],
        collect: Callable[[Mapping[str, Any]], Any],
    ) -> None:
        self.__name__, self.__doc__, self.__module__ = command.__name__, command.__doc__, command.__module__
        self._command, self._name, self._options, self._collect = command, name, options, collect

    def __call__(self, **given: Any) -> None:  # noqa: D102
        values = {option.name: given.pop(option.name) for option in self._options()}
        self._command(**{self._name: self._collect(values)}, **given)

    @property
    def __signature__(self) -> inspect.Signature:
        signature = inspect.signature(self._command, eval_str=True)
        parameters: list[inspect.Parameter] = []
        for parameter in signature.parameters.values():
            parameters += self._options() if parameter.name == self._name else [parameter]
        return signature.replace(parameters=[p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in parameters])

    @property
    def __annotations__(self) -> dict[str, Any]:  # type: ignore[override]
        return {name: parameter.annotation for name, parameter in self.__signature__.parameters.items()}


#: The way to full size at the switch of resolutions.
Switch = Annotated[
    str | None,
    typer.Option(
        "--switch",
        help="To full size: renoise, or of rectified flows expand, renoise-own-grid or expand-own-grid.  "
        "[default: what suits the scheduler]",
    ),
]

#: An option of commands that take a budget.
PerImage = Annotated[bool, typer.Option("--per-image", help="A budget in seconds is of an image, not of a call.")]


def option(name: str, kind: Any, default: Any, flag: str, text: str, **more: Any) -> inspect.Parameter:
    """One option as a parameter of a command."""
    annotation = Annotated[kind, typer.Option(flag, help=text, **more)]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def with_deployment(command: Callable[..., None]) -> Shared:
    """The command with the deployment's own settings as options, as ``DeploymentSettings`` in ``deployment``."""
    return Shared(command, "deployment", _deployment_options, _deployment)


def with_run(command: Callable[..., None]) -> Shared:
    """The command with what every paper study takes as options, as arguments of its job by name in ``run``."""
    return Shared(command, "run", _run_options, dict)


def _run_options() -> list[inspect.Parameter]:
    return [
        option(
            "prompts", str | None, None, "--prompts", "A shipped set's name or a file; default: the model's own set."
        ),
        option("seed", int, 0, "--seed", "Fixes prompts and images.", min=0, max=2**63 - 1),
        option(
            "out",
            Path | None,
            None,
            "--out",
            "The result, .json, with a .png beside it.  [default: in the study's folder]",
        ),
        option("device", str, "auto", "--device", "auto, cpu, cuda, mps …"),
        option("dtype", str, "auto", "--dtype", "auto, float32, float16, bfloat16."),
        option("batch_size", int, 0, "--batch-size", "Images per batch; 0 chooses.", min=0),
        option("fresh", bool, False, "--fresh", "Start anew instead of resuming."),
    ]


def _deployment_options() -> list[inspect.Parameter]:
    return [
        option("height", int, 0, "--height", "Pixels; 0 is the model's own (a profile's, where there is one).", min=0),
        option("width", int, 0, "--width", "Pixels; 0 is the model's own.", min=0),
        option("steps", int, 0, "--steps", "The baseline's T, and the most that a search tries; 0: own.", min=0),
        option(
            "guidance_scale",
            float | None,
            None,
            "--guidance-scale",
            "1 or less (Z-Image: 0): none.  [default: the model's]",
        ),
        option("scheduler", str | None, None, "--scheduler", "A diffusers class.  [default: the model's own]"),
        option(
            "scheduler_config",
            list[str] | None,
            None,
            "--scheduler-config",
            "An argument of that class, such as use_karras_sigmas=true; repeatable.",
            metavar="KEY=VALUE",
        ),
        option("negative_prompt", str | None, None, "--negative-prompt", "One for all images."),
        option("batch_size", int, 0, "--batch-size", "Images per call; 0 chooses.", min=0),
        option(
            "lora",
            list[str] | None,
            None,
            "--lora",
            "A LoRA to merge into the model, with its scale; repeatable.",
            metavar="FILE_OR_ID[:SCALE]",
        ),
        option("vae", str | None, None, "--vae", "Folder or OWNER/NAME@COMMIT of another autoencoder."),
        option("variant", str | None, None, "--variant", "Of the model's files, such as fp16."),
        option("revision", str | None, None, "--revision", "The commit of a model on the hub."),
    ]


def _deployment(values: Mapping[str, Any]) -> Any:
    from postdiff_calib.models.deployment import DeploymentSettings, parse_scheduler_config

    return DeploymentSettings(
        height=values["height"] or None,
        width=values["width"] or None,
        num_inference_steps=values["steps"] or None,
        guidance_scale=values["guidance_scale"],
        scheduler=values["scheduler"],
        scheduler_config=parse_scheduler_config(values["scheduler_config"] or ()),
        negative_prompt=values["negative_prompt"],
        batch_size=values["batch_size"] or None,
        loras=tuple(values["lora"] or ()),
        vae=values["vae"],
        variant=values["variant"],
        revision=values["revision"],
    )
