"""What is fuzzed: generated inputs for every reader, and what must hold whatever they are.

Each target is (strategy, check). A check raises nothing but the project's own errors, whose text is one printable line.
"""

from __future__ import annotations

import copy
import io
import json
import tempfile
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from hypothesis import strategies as st
from profiles import profile_data
from studies import BASELINE, N, study_record

from postdiff_calib.cost.budget import PlanCost, parse_budget, parse_budgets
from postdiff_calib.cost.store import read_table
from postdiff_calib.errors import PostdiffError
from postdiff_calib.plan import compile_plan
from postdiff_calib.profile import parse_profile
from postdiff_calib.prompts import load_prompt_set
from postdiff_calib.report.console import make_console
from postdiff_calib.report.terminal import print_profile
from postdiff_calib.scores.book import ScoreBook
from postdiff_calib.scores.store import FileStore
from postdiff_calib.search.backend.address import shown, without_secrets
from postdiff_calib.study.record import StudyRecord

PROFILE = profile_data()
RECORD = study_record().as_dict()
TABLE = RECORD["cost"]
BLOCK = {"plan": compile_plan(BASELINE).plan_id, "knobs": BASELINE.as_dict(), "prompts": [0, 1], "scores": [80.0, 81.5]}
SECRET = "Sesame17"

#: Text with what is awkward in it.
awkward = st.one_of(
    st.text(max_size=20),
    st.sampled_from(["", "\x1b[31m", "\u202e", "\x00", "nan", "1e999", "null", "~", "0x10", "2001-01-01", "a\nb", "é"]),
)
numbers = st.one_of(
    st.integers(-(2**70), 2**70), st.floats(), st.sampled_from([0, -1, 1, 2**31, 2**63, 1e308, -0.0, 1e-320])
)
values: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, awkward),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(awkward, inner, max_size=3)),
    max_leaves=8,
)


def _paths(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in plain data."""
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in items:
        yield (*path, key)
        if not isinstance(value, list) or len(value) < 30:
            yield from _paths(value, (*path, key))


def mutations(good: Any) -> st.SearchStrategy[Any]:
    """Plain data in which up to three values are replaced, dropped or given a neighbour."""
    places = list(_paths(good))

    @st.composite
    def mutated(draw: Any) -> Any:
        data = copy.deepcopy(good)
        for _ in range(draw(st.integers(1, 3))):
            *parts, last = draw(st.sampled_from(places))
            inner = data
            for part in parts:
                try:
                    inner = inner[part]
                except (LookupError, TypeError):
                    inner = None
            if not (isinstance(inner, dict) and last in inner) and not (
                isinstance(inner, list) and isinstance(last, int) and last < len(inner)
            ):
                continue  # an earlier change has taken the place away
            kind = draw(st.sampled_from(["replace", "replace", "drop", "add"]))
            if kind == "replace":
                inner[last] = draw(values)
            elif kind == "drop":
                del inner[last]
            elif isinstance(inner, dict):
                inner[draw(awkward)] = draw(values)
            else:
                inner.append(draw(values))
        return data

    return mutated()


@st.composite
def spliced(draw: Any, good: bytes) -> bytes:
    """Bytes with some of them cut out, doubled or replaced."""
    text = good
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.integers(0, 40)))
        text = text[:start] + draw(st.one_of(st.binary(max_size=12), st.just(text[start:end] * 2))) + text[end:]
    return text


def shows_safely(text: str) -> bool:
    """Whether a text is one line in which nothing steers a terminal."""
    return not any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") or c in "\u202e\u2066" for c in text)


@contextmanager
def only_our_errors() -> Iterator[None]:
    """Swallow the project's own errors, once they are seen to be one line that can be shown."""
    try:
        yield
    except PostdiffError as error:
        said = str(error)
    else:
        return
    assert shows_safely(said), ascii(said)


def _file(content: str | bytes, suffix: str, read: Callable[[Path], None]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"file{suffix}"
        path.write_bytes(content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content)
        with only_our_errors():
            read(path)


def check_budget(text: str) -> None:
    with only_our_errors():
        parse_budgets(text)
    with only_our_errors():
        budget = parse_budget(text)
        limit = budget.resolve(PlanCost(1e12, 9e11, 2.0, 2.5))
        assert limit.value > 0
        assert parse_budget(budget.text) == budget
        assert shows_safely(budget.describe())
        limit.show(limit.value)


def check_profile(text: str) -> None:
    with only_our_errors():
        profile = parse_profile(text, "p.yaml")
        assert parse_profile(profile.to_yaml()) == profile
        console = make_console(100)
        console.file = io.StringIO()
        print_profile(profile, as_json=False, console=console)
        assert shows_safely(console.file.getvalue().replace("\n", ""))


def check_prompts(given: tuple[str, bytes]) -> None:
    suffix, content = given

    def read(path: Path) -> None:
        found = load_prompt_set(path)
        assert found.prompts
        json.dumps(found.prompts, ensure_ascii=False).encode()

    _file(content, suffix, read)


def check_table(content: bytes) -> None:
    def read(path: Path) -> None:
        cost = read_table(path).price(compile_plan(BASELINE))
        assert cost.macs > 0
        assert cost.seconds is None or cost.seconds > 0

    _file(content, ".json", read)


def check_record(data: Any) -> None:
    with only_our_errors():
        record = StudyRecord.from_dict(data)
        _ = record.objective, record.searched, record.asked.rails, record.held_out_seed
        record.cost.price(compile_plan(record.baseline))
        assert StudyRecord.from_dict(record.as_dict()).as_dict() == record.as_dict()


def check_blocks(content: bytes) -> None:
    def read(path: Path) -> None:
        book = ScoreBook(None, N, BASELINE, FileStore(path))  # type: ignore[arg-type]
        for knobs in book.plans.values():
            book.plan_scores(knobs, PlanCost(1.0, 1.0))
        for block in book.blocks():
            json.dumps(block)

    _file(content, ".jsonl", read)


def check_address(url: str) -> None:
    for seen in (shown(url), without_secrets(f"could not connect with {url}", url)):
        assert SECRET not in seen, seen


def _dumped(data: Any) -> str:
    return json.dumps(data)


_yaml_texts = mutations(PROFILE).map(lambda data: yaml.safe_dump(data, sort_keys=False, allow_unicode=True))
_json_rows = st.lists(
    st.one_of(values, st.fixed_dictionaries({}, optional={"prompt": values, "caption": values, "split": values})),
    max_size=5,
)
_prompt_files = st.one_of(
    st.tuples(st.sampled_from([".jsonl", ".txt", ".csv", ".json", ".parquet"]), st.binary(max_size=200)),
    st.tuples(st.just(".jsonl"), _json_rows.map(lambda rows: "\n".join(map(_dumped, rows)).encode())),
    st.tuples(
        st.just(".json"),
        st.one_of(
            _json_rows.map(lambda rows: _dumped(rows).encode()),
            st.lists(st.fixed_dictionaries({"image_id": values, "caption": values}), max_size=4).map(
                lambda rows: _dumped({"annotations": rows}).encode()
            ),
        ),
    ),
    st.tuples(
        st.sampled_from([".csv", ".txt"]),
        st.lists(awkward).map(lambda c: ",\n".join(["prompt", *c]).encode("utf-8", "replace")),
    ),
)
_addresses = st.builds(
    lambda form, user, host, tail: form.format(user=user, host=host, secret=SECRET, tail=tail),
    st.sampled_from(
        [
            "postgresql://{user}:{secret}@{host}/db", "postgresql+psycopg://{user}:{secret}{tail}@{host}:5432/db",
            "postgresql://{user}:{tail}{secret}@{host}/db", "postgresql://{user}:p@{secret}@{host}/db",
            "postgresql://{user}:a/{secret}@{host}/db", "postgresql://{user}:a {secret}@{host}/db",
            "postgresql://{user}/{secret}@{host}/db", "postgresql://{user}:%40{secret}@{host}/db",
            "postgresql://{user}%3A{secret}@{host}/db", "postgresql://{host}/db?user={user}&password={secret}",
            "postgresql://{host}/db?passwd={secret}&sslmode=require", "postgresql://{host}/db?sslpassword={secret}",
            "postgresql://{host}/db?sslmode={secret};", "postgresql://{host}/db;password={secret}",
            "postgresql://{host}/db:password={secret}", "postgresql://{host}/db password={secret}",
            "postgresql://{host}:password={secret}/db", "postgresql://{host}/db;pwd={secret}@{host}",
            "postgresql://:{secret}@{host}/db", "postgresql://{user}:{secret}@[::1]:5432/db",
            "mysql+pymysql://{user}:{secret}@{host}/db?charset=utf8", "mssql+pyodbc:///?odbc_connect=PWD%3D{secret}",
            "mssql+pyodbc://DRIVER={{x}};UID={user};PWD={secret}", "mssql+pyodbc://{user}:{secret}@dsn",
            "mssql+pyodbc:///?odbc_connect=DRIVER={{x}};UID={user};PWD={{{secret};a}}",
            "postgresql://{user}:{secret}#x@{host}/db", "postgresql://{user}:{secret}?x@{host}/db",
            "postgresql://{host}/db?options=-c%20password={secret}", "postgresql://{host}/db?PASSWORD={secret}",
            "sqlite+pysqlcipher://:{secret}@/file.db", "{user}:{secret}@{host}", "postgresql:{user}:{secret}@{host}",
            "postgresql://{user}:\n{secret}@{host}/db", "postgresql://{user}: {secret} @{host}/db",
            "postgresql://{user}:{secret}@@{host}/db", "POSTGRESQL://{user}:{secret}@{host}/db",
        ]
    ),
    st.sampled_from(["me", "", "a.b", "ü"]),
    st.sampled_from(["host", "db.example.org", "127.0.0.1"]),
    st.sampled_from(["", "/", "@", ":", ";", " ", "%", "=", "&", "?", "#"]),
)  # fmt: skip

#: Name → (what is generated, what must hold).
TARGETS: dict[str, tuple[st.SearchStrategy[Any], Callable[[Any], None]]] = {
    "budgets": (
        st.one_of(
            st.text(max_size=30),
            st.from_regex(r"(p95:)?-?[0-9.e]{1,9} ?(s|ms|%|x|[GT]MACs|TFLOPs)( time| macs)?(/image)?", fullmatch=True),
        ),
        check_budget,
    ),
    "profiles, values": (st.one_of(_yaml_texts, mutations(PROFILE).map(_dumped)), check_profile),
    "profiles, text": (
        spliced(yaml.safe_dump(PROFILE, sort_keys=False).encode()).map(lambda raw: raw.decode("utf-8", "replace")),
        check_profile,
    ),
    "prompt files": (_prompt_files, check_prompts),
    "latency tables": (
        st.one_of(mutations(TABLE).map(lambda data: _dumped(data).encode()), spliced(_dumped(TABLE).encode())),
        check_table,
    ),
    "study records": (mutations(RECORD), check_record),
    "blocks of scores": (
        st.one_of(
            st.lists(mutations(BLOCK), max_size=3).map(lambda rows: "".join(_dumped(r) + "\n" for r in rows).encode()),
            spliced((_dumped(BLOCK) + "\n").encode() * 3),
        ),
        check_blocks,
    ),
    "storage addresses": (_addresses, check_address),
}
