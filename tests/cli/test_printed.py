"""Everything that commands print: JSON as ``docs/json.md`` describes it, and text that is whole at 80 columns."""

import io
import json
import re
import typing
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from outputs import ablation, judgement, methods, outputs, profile, redundancy
from rich.console import Console
from studies import make_study

from postdiff_calib.cli.main import app
from postdiff_calib.files import parse_json
from postdiff_calib.jobs.export import ExportJob, run_export
from postdiff_calib.jobs.paper_study import write_result
from postdiff_calib.report.comparison import print_exported
from postdiff_calib.report.console import make_console
from postdiff_calib.report.json_output import Kind, print_json
from postdiff_calib.report.judged import print_judgement
from postdiff_calib.report.studies import print_ablation, print_methods, print_redundancy
from postdiff_calib.report.terminal import print_calibration

PAGE = (Path(__file__).parents[2] / "docs" / "json.md").read_text(encoding="utf-8")

#: Headings of columns whose cells speak for themselves, and are shown without it where a table does not fit.
HEADINGS = {"arm", "plan", "budget", "setting", "block", "layers", "check", "name", "T", "prompts", "category"}
HEADINGS |= {"set-up", "scorer", "method"}


def documented():
    """Keys of each schema on the page: (those that are always there, all)."""
    found = {}
    for section in PAGE.split("\n## ")[1:]:
        keys = re.findall(r"^\| `(\w+)`( †)? \|", section, flags=re.MULTILINE)
        found[section.split("\n")[0]] = {name for name, now_and_then in keys if not now_and_then}, {k for k, _ in keys}
    return found


@pytest.fixture(scope="module")
def every(tmp_path_factory):
    pytest.importorskip("matplotlib")
    return outputs(tmp_path_factory.mktemp("outputs"))


def test_every_command_with_json_is_on_the_page():
    def commands(group, above=()):
        for name, command in group.commands.items():
            if hasattr(command, "commands"):
                yield from commands(command, (*above, name))
            elif any("--json" in option.opts for option in command.params):
                yield " ".join((*above, name))

    names = list(commands(typer.main.get_command(app)))
    assert len(names) > 10
    for name in names:
        assert re.search(rf"`postdiff {name}[^`]*--json`", PAGE), name


def test_json_has_the_schema_and_the_keys_of_the_page(every, capsys):
    page = documented()
    assert list(page) == [f"postdiff.{kind}/1" for kind in typing.get_args(Kind)]
    assert [kind for kind, _ in every] == list(typing.get_args(Kind))
    for kind, show in every:
        capsys.readouterr()
        show(True, Console(file=io.StringIO()))
        data = json.loads(capsys.readouterr().out)
        assert next(iter(data)) == "schema"
        always, known = page[data["schema"]]
        assert data["schema"] == f"postdiff.{kind}/1"
        assert always <= data.keys() - {"schema"} <= known, kind


def test_numbers_that_json_cannot_say_are_null(tmp_path, capsys):
    data = {"a": [float("nan"), 1.5, True], "b": {"c": (float("inf"), None, "nan")}}
    plain = {"a": [None, 1.5, True], "b": {"c": [None, None, "nan"]}}
    print_json("fid", data)
    assert parse_json(capsys.readouterr().out) == {"schema": "postdiff.fid/1", **plain}
    assert parse_json(write_result(tmp_path / "r.json", data).read_bytes()) == plain


def test_text_of_others_is_shown_as_it_is_in_the_studies(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    name = "models/[/x][bold]a\x1b[31mb$"
    shown = r"models/[/x][bold]a\x1b[31mb$"
    console = make_console(200)
    compared = methods()
    refused = replace(compared.budgets["60%"][1], why="PlanError: [/red]broken\x1b")
    result = replace(compared, model=name, budgets={"60%": [compared.budgets["60%"][0], refused]})
    print_redundancy(replace(redundancy(tmp_path), model=name), tmp_path / "a.json", as_json=False, console=console)
    print_ablation(replace(ablation(), model=name), tmp_path / "b.json", as_json=False, console=console)
    print_methods(result, tmp_path / "c.json", as_json=False, console=console)
    said = capsys.readouterr().out
    assert said.count(shown) == 3
    assert r"PlanError: [/red]broken\x1b" in said


def test_a_path_is_never_broken_however_long(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    console, study = make_console(80), tmp_path / "study"
    folder = tmp_path / ("a" * 60) / ("b" * 60)
    folder.mkdir(parents=True)
    file, picture = folder / "result.json", folder / "result.png"
    print_calibration(profile(), file, as_json=False, console=console)
    assert f"profile written to {file}\n" in capsys.readouterr().out
    print_judgement(judgement(), picture, as_json=False, console=console)
    assert f"images written to {picture}\n" in capsys.readouterr().out
    make_study(study)
    exported = run_export(ExportJob(study, out=file, format="json"))
    print_exported(exported, as_json=False, console=console)
    assert f"written to {file}\n" in capsys.readouterr().out
    print_methods(methods(), file, as_json=False, console=console)
    assert f"written to {file}, drawn into {picture}\n" in capsys.readouterr().out


def test_at_eighty_columns_every_word_is_there(every, capsys, monkeypatch):
    """What a wide terminal shows and a narrow one shows are the same words; nothing is cut, and no line is longer."""

    def shown(show, width):
        monkeypatch.setenv("COLUMNS", str(width))
        capsys.readouterr()
        out = io.StringIO()
        show(False, Console(file=out, width=width))
        return out.getvalue() + capsys.readouterr().out

    for kind, show in every:
        wide, narrow = shown(show, 400), shown(show, 80)
        assert narrow.count("…") == wide.count("…"), kind
        words = [set(re.sub(r"[─╴╶]+", " ", text).split()) for text in (wide, narrow)]
        assert words[0] - words[1] <= HEADINGS, kind
        long = [line for line in narrow.splitlines() if len(line.rstrip()) > 80]
        # sentences are left to the terminal, which wraps them
        assert not [line for line in long if "  " in re.sub(r"^\s*\w+ +", "", line)], (kind, long)
