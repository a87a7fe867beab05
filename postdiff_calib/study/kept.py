"""The paper's own studies that a study's folder holds: files of ``ablate``, ``analyze redundancy``, ``prompts study``
and ``compare-methods``. What ``finetune`` writes lies beside the weights, which are a model of their own.

Files are looked for in the folder itself and in the folders of the same model's studies beside it
(``studies/shapes-ablation`` beside ``studies/shapes``), by the key ``study`` that these commands write. A study of
prompt sizes names no model: it is of the model of the study that it lies with (``studies/shapes-flow`` is beside, too).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from postdiff_calib.errors import StudyError
from postdiff_calib.files import read_json

#: The kinds that reports show, by what their files say of themselves.
KINDS = ("ablation", "redundancy", "prompt sizes", "methods")


@dataclass(frozen=True)
class KeptStudy:
    """One finished study.

    Attributes:
        kind: one of ``KINDS``.
        path: its JSON file.
        data: what is in it.
    """

    kind: str
    path: Path
    data: Mapping[str, Any]

    @property
    def plot(self) -> Path | None:
        """Its plot, where there is one beside the file."""
        found = self.path.with_suffix(".png")
        return found if found.is_file() else None


def kept_studies(folder: Path, *models: str) -> list[KeptStudy]:
    """The studies of a model in a folder and beside it, by kind and path; files that are none are passed over.

    Args:
        folder: of a calibration's study.
        models: the model's names; a study that names another is passed over.
    """
    found = []
    for place in (folder, *sorted(folder.parent.glob(f"{folder.name}-*"))):
        here = _studies_in(place)
        own = place == folder or any(one.data.get("model") in models for one in here)
        found += [one for one in here if (one.data["model"] in models if "model" in one.data else own)]
    return sorted(found, key=lambda one: (KINDS.index(one.kind), str(one.path)))


def _studies_in(place: Path) -> list[KeptStudy]:
    """The studies of a folder, of whichever model."""
    found = []
    for path in sorted(place.glob("*.json")):
        try:
            data = read_json(path, f"study {path}", StudyError, "delete it")
        except StudyError:
            continue
        kind = data.get("study") if isinstance(data, dict) else None
        if kind in KINDS:
            found.append(KeptStudy(str(kind), path, data))
    return found
