"""Every package that is imported is declared in ``pyproject.toml``, and every one that is declared is used."""

import ast
import re
import sys
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

ROOT = Path(__file__).parent.parent
#: Packages whose import has another name than what is installed.
IMPORTED_AS = {"open-clip-torch": "open_clip", "pillow": "PIL", "pyyaml": "yaml"}
#: Declared and imported nowhere by name, with what needs them.
NEEDED_BY = {
    "accelerate": "diffusers, to load weights without a copy",
    "bandit": "the check of every commit",
    "httpx": "fastapi's test client",
    "mypy": "the check of every commit",
    "pre-commit": "the check of every commit",
    "pytest-xdist": "pytest, for several processes",
    "ruff": "the check of every commit",
    "types-pyyaml": "mypy",
}


def normal(requirement):
    return re.split(r"[\s<>=!~;\[]", requirement, maxsplit=1)[0].lower().replace("_", "-")


def declared():
    """Names by import name: of the package itself, and of all extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [name for names in project["optional-dependencies"].values() for name in names]
    core, more = ({normal(name) for name in names} for names in (project["dependencies"], extras))
    return core, more - {project["name"]}


def imported(folder):
    """Packages that files of a folder import, anywhere in them, the standard library and the repository left out."""
    found = set()
    own = {path.stem for root in ("tests", "benchmarks") for path in (ROOT / root).rglob("*.py")}
    own |= {path.name for path in (ROOT / "tests").iterdir() if path.is_dir()} | {"postdiff_calib"}
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
            found |= {name.partition(".")[0] for name in names}
    # _typeshed exists for the type checker alone, tomli is Python 3.11's tomllib under its older name, comfy is what
    # the node in docs/comfyui runs in
    return found - own - set(sys.stdlib_module_names) - {"_typeshed", "tomli", "comfy"}


def import_names(packages):
    return {IMPORTED_AS.get(name, name).lower().replace("-", "_") for name in packages}


def lower(names):
    return {name.lower() for name in names}


def test_what_the_package_imports_is_declared():
    core, extras = declared()
    optional = {"matplotlib", "jinja2"}  # of the extra ``report``: imported where a report is made
    assert optional <= import_names(extras)
    assert lower(imported("postdiff_calib")) - optional <= lower(import_names(core))


@pytest.mark.parametrize("folder", ["tests", "benchmarks", "docs", "calib_sets"])
def test_what_the_rest_imports_is_declared(folder):
    core, extras = declared()
    assert lower(imported(folder)) <= lower(import_names(core | extras)) | {"pytest"}


def test_what_is_declared_is_used():
    core, extras = declared()
    used = lower(set().union(*map(imported, ("postdiff_calib", "tests", "benchmarks", "docs", "calib_sets"))))
    # pytest.importorskip and the like take the name as text
    text = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py"))
    used |= {name for name in import_names(core | extras) if f'importorskip("{name}")' in text}
    unused = {name for name in core | extras if IMPORTED_AS.get(name, name).lower().replace("-", "_") not in used}
    assert unused == set(NEEDED_BY)
