"""The rooms of the house: imports point down the data's path, heavy packages stay where they belong."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "postdiff_calib"

#: Each room may import the rooms before it. Rooms in one tuple are siblings and do not import each other.
ORDER: list[tuple[str, ...]] = [
    ("errors", "progress"),
    ("knobs", "files", "models.families"),
    ("techniques",),
    ("plan",),
    ("prompts",),
    ("models",),
    ("accelerate",),
    ("generate",),
    ("cost", "quality"),
    ("scores",),
    ("search",),
    ("search.backend",),
    ("profile",),
    ("study",),
    ("jobs",),
    ("report",),
    ("api", "cli"),
]
LEVEL = {room: level for level, rooms in enumerate(ORDER) for room in rooms}
#: third-party package → rooms that may import it
HOMES = {
    "optuna": {"search.backend"},
    "typer": {"cli"},
    "rich": {"cli", "report"},
    "open_clip": {"quality", "models"},
    "fvcore": {"cost"},
}
#: Packages that no module of these rooms may import at all, not even inside functions.
PLAIN = {"errors", "progress", "knobs", "plan", "prompts"}
#: Modules of other rooms for which the same holds.
PLAIN_FILES = {"cost/budget.py", "generate/settings.py"}
HEAVY = {"torch", "diffusers", "transformers", "optuna", "open_clip"}


def room_of(parts):
    """The room of a dotted name below the package: a folder inside a room may be one of its own."""
    inner = ".".join(parts[:2])
    return inner if inner in LEVEL else parts[0]


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        room = room_of(path.relative_to(PACKAGE).with_suffix("").parts)
        if room != "__init__":
            yield room, path


def imports(path):
    """Module name of each import, those inside functions and those for type checking alone included."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative imports hide the direction"
            if node.module == "postdiff_calib":
                for alias in node.names:
                    yield f"postdiff_calib.{alias.name}"
            else:
                yield node.module


def test_every_module_belongs_to_a_room():
    assert {room for room, _ in modules()} <= set(LEVEL)


def test_the_house_is_small_enough_to_know():
    assert len(LEVEL) <= 22


def test_imports_point_down():
    wrong = []
    for room, path in modules():
        for name in imports(path):
            parts = name.split(".")
            if parts[0] != "postdiff_calib" or len(parts) < 2 or parts[1] not in LEVEL:
                continue
            other = room_of(parts[1:])
            if other != room and LEVEL[other] >= LEVEL[room]:
                wrong.append(f"{path.relative_to(PACKAGE)} imports {name}")
    assert not wrong


def test_packages_stay_in_their_rooms():
    wrong = []
    for room, path in modules():
        for name in imports(path):
            package = name.split(".")[0]
            if package in HOMES and room not in HOMES[package]:
                wrong.append(f"{path.relative_to(PACKAGE)} imports {name}")
            plain = room in PLAIN or path.relative_to(PACKAGE).as_posix() in PLAIN_FILES
            if plain and package in HEAVY and path.name != "sample.py":
                wrong.append(f"{path.relative_to(PACKAGE)} imports {name}")
    assert not wrong


def test_no_files_import_each_other_in_a_circle():
    """Imports of one file lead back to it on no way, whichever rooms the way goes through."""
    files = {
        ".".join(("postdiff_calib", *path.relative_to(PACKAGE).with_suffix("").parts)): path for _, path in modules()
    }
    below = {name: {found for found in imported(path) if found in files} for name, path in files.items()}
    open_files = dict(below)
    while free := [name for name, uses in open_files.items() if not uses & set(open_files)]:
        for name in free:
            del open_files[name]
    assert not open_files, f"in circles, or above one: {sorted(open_files)}"


def imported(path):
    """As ``imports``, and ``package.name`` of each name that is imported from a package: it may be a module."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def run_python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)


def test_help_imports_nothing_heavy():
    code = (
        "import sys\n"
        "from postdiff_calib.cli.main import main\n"
        "try:\n    main(['--help'])\n"
        "except SystemExit as stop:\n    assert not stop.code, stop.code\n"
        f"heavy = {sorted(HEAVY | {'numpy', 'scipy', 'matplotlib'})!r}\n"
        "loaded = [name for name in heavy if name in sys.modules]\n"
        "assert not loaded, loaded\n"
    )
    result = run_python(code)
    assert result.returncode == 0, result.stderr
    assert "calibrate" in result.stdout


def test_importing_the_package_is_light():
    result = run_python(
        "import sys, postdiff_calib\n"
        "postdiff_calib.Knobs, postdiff_calib.compile_plan\n"
        "import postdiff_calib.techniques, postdiff_calib.models.families\n"
        f"assert not set({sorted(HEAVY)!r}) & set(sys.modules)\n"
    )
    assert result.returncode == 0, result.stderr


def test_public_names_resolve():
    import postdiff_calib

    for name in postdiff_calib.__all__:
        assert getattr(postdiff_calib, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = postdiff_calib.nothing


@pytest.mark.parametrize("room", ["jobs", "profile", "study"])
def test_no_function_takes_more_than_seven_parameters(room):
    wide = []
    for path in sorted((PACKAGE / room).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                given = node.args
                count = len(given.posonlyargs) + len(given.args) + len(given.kwonlyargs)
                wide += [f"{path.name}: {node.name} takes {count}"] if count > 7 else []
    assert not wide
