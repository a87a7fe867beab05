"""A sheet of images: a row for each way of running the model, a column for each prompt, same seeds."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from postdiff_calib.files import replacing
from postdiff_calib.files.pixels import IMAGE_FORMATS

#: Pixels between images; width of the labels on the left, height of the prompts below; and the text's size.
_GAP, _LABEL, _CAPTION, _TEXT = 4, 190, 64, 11
#: Small images are enlarged with sharp pixels up to this side, large ones reduced to twice of it.
_SIDE = 128


def draw_sheet(labels: Sequence[str], images: Sequence[Sequence[Any]], prompts: Sequence[str]) -> Any:
    """A sheet of images with a label beside each row and the prompt below each column.

    Args:
        labels: R of them; lines are wrapped.
        images: R rows of C Pillow images of one size; None leaves a cell empty.
        prompts: C of them.

    Returns:
        A Pillow image.
    """
    from PIL import Image, ImageDraw

    first = next(image for row in images for image in row if image is not None)
    width, height = _shown_size(*first.size)
    sheet = Image.new(
        "RGB", (_LABEL + len(prompts) * (width + _GAP), len(labels) * (height + _GAP) + _CAPTION), "white"
    )
    pen = ImageDraw.Draw(sheet)
    for y, (label, row) in enumerate(zip(labels, images, strict=True)):
        # the built-in font has neither of these
        plain = label.replace("×", "x").replace("β", "beta")
        text = "\n".join("\n".join(_wrapped(pen, line, _LABEL - 12)) for line in plain.splitlines())
        pen.multiline_text((4, y * (height + _GAP) + 8), text, fill="black", font_size=_TEXT)
        for x, image in enumerate(row):
            if image is None:
                continue
            enlarged = width > image.width
            resample = Image.Resampling.NEAREST if enlarged else Image.Resampling.LANCZOS
            sheet.paste(image.resize((width, height), resample), (_LABEL + x * (width + _GAP), y * (height + _GAP)))
    for x, prompt in enumerate(prompts):
        lines = _wrapped(pen, prompt, width)
        lines = [*lines[:5], "and so on"] if len(lines) > 6 else lines
        at = (_LABEL + x * (width + _GAP), len(labels) * (height + _GAP))
        pen.multiline_text(at, "\n".join(lines), fill="black", font_size=_TEXT - 2, spacing=1)
    return sheet


def save_sheet(sheet: Any, path: Path, what: str) -> None:
    """Write a sheet whole or not at all, in the format of the path's ending.

    Args:
        sheet: a Pillow image.
        path: of the file, which ``refuse_image`` accepted.
        what: it is, for the message.

    Raises:
        OutputError: it cannot be written.
    """
    with replacing(path, f"{what} {path}") as temporary:
        sheet.save(temporary, format=IMAGE_FORMATS[path.suffix.lower()], optimize=True)


def _shown_size(width: int, height: int) -> tuple[int, int]:
    longest = max(width, height)
    scale = _SIDE // longest if longest <= _SIDE else min(1.0, 2 * _SIDE / longest)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _wrapped(pen: Any, text: str, width: int) -> list[str]:
    """Lines of a text that are at most so many pixels wide; a word that is wider is broken."""
    lines = [""]
    for word in text.split():
        for part in textwrap.wrap(word, max(4, width // 6)) or [""]:
            tried = f"{lines[-1]} {part}".strip()
            if pen.textlength(tried, font_size=_TEXT) <= width:
                lines[-1] = tried
            else:
                lines.append(part)
    return lines
