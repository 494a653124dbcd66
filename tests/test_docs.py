"""README, CONTRIBUTING and docs: examples run, links lead somewhere, commands and SQL exist."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import re
import shlex
import sys
from pathlib import Path

import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

from generality.cli.app import app
from generality.lab import open_run, query

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
_FENCE = re.compile(r"^(<!-- skip: [^\n]+ -->\n)?```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(language: str) -> list[tuple[str, str]]:
    """Name and content of every fenced block of a language that is not marked to be skipped."""
    found = []
    for page in PAGES:
        text = page.read_text("utf-8")
        for fence in _FENCE.finditer(text):
            if fence[2] == language and not fence[1]:
                line = text[: fence.start()].count("\n") + 1
                found.append((f"{page.relative_to(ROOT)}:{line}", fence[3]))
    return found


def commands() -> list[tuple[str, list[str]]]:
    """Every `generality …` in a shell block or in backticks, as words."""
    lines = [(place, line) for place, block in blocks("sh") for line in block.splitlines()]
    for page in PAGES:
        prose = _FENCE.sub("", page.read_text("utf-8"))
        lines += [(str(page.relative_to(ROOT)), code) for code in re.findall(r"`([^`]+)`", prose)]
    words = [
        (place, shlex.split(line, comments=True)) for place, line in lines if "generality " in line
    ]
    return [(place, found) for place, found in words if found[:1] == ["generality"]]  # fmt: skip


PYTHON, COMMANDS = blocks("python"), commands()
# pages of studies show parts beside a model and data of the reader's own: nothing to run there
SKETCHES = [block for block in PYTHON if block[0].startswith("docs/studies/")]
PYTHON = [block for block in PYTHON if block not in SKETCHES]


def test_blocks_and_commands_are_found():
    assert len(PYTHON) >= 8
    assert len(COMMANDS) >= 30


@pytest.mark.parametrize(("place", "code"), PYTHON, ids=[place for place, _ in PYTHON])
def test_python_examples_run(place, code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GENERALITY_HOME", str(tmp_path / "home"))
    exec(compile(code, place, "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize(("place", "code"), SKETCHES, ids=[place for place, _ in SKETCHES])
def test_sketches_import_what_exists_and_name_its_arguments(place, code):
    check_sketch(code)


def check_sketch(code: str) -> None:
    """What is imported exists, and what is ours is called with arguments that it takes."""
    tree, names = ast.parse(code), {}
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            exec(compile(ast.Module([node], []), "sketch", "exec"), names)
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
            continue
        called = names.get(call.func.id)
        if getattr(called, "__module__", "").startswith("generality"):
            keywords = {keyword.arg: None for keyword in call.keywords if keyword.arg}
            inspect.signature(called).bind_partial(*call.args, **keywords)


def test_a_wrong_sketch_would_be_noticed():
    check_sketch("from generality.measures import ece\nece(mine, truth, bins=5)")
    with pytest.raises(TypeError, match="boxes"):
        check_sketch("from generality.measures import ece\nece(mine, truth, boxes=5)")
    with pytest.raises(ImportError, match="eece"):
        check_sketch("from generality.measures import eece")


@pytest.mark.parametrize(("place", "words"), COMMANDS, ids=[" ".join(w) for _, w in COMMANDS])
def test_commands_and_their_options_exist(place, words):
    command, rest = typer.main.get_command(app), words[1:]
    while hasattr(command, "commands") and rest and not rest[0].startswith("-"):
        assert rest[0] in command.commands, f"{place}: no command {rest[0]}"
        command, rest = command.commands[rest[0]], rest[1:]
    known = {name for option in command.params for name in option.opts} | {"--help"}
    for word in rest:
        if word.startswith("-"):
            assert word.partition("=")[0] in known, f"{place}: no option {word}"


def test_a_wrong_option_would_be_noticed():
    with pytest.raises(AssertionError, match="no option --seed"):
        test_commands_and_their_options_exist("here", ["generality", "run", "x", "--seed", "1"])


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_links_lead_to_files_and_headings(page):
    text = _FENCE.sub("", page.read_text("utf-8"))
    links = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'src="([^"]+)"', text)
    for link in links:
        if link.startswith(("http://", "https://")):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.is_file(), f"{link} leads nowhere"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", target.read_text("utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", h).strip().lower().replace(" ", "-") for h in headings}
            assert anchor in slugs, f"{link}: no such heading"


def test_scripts_that_pages_name_exist():
    named = {
        name for page in PAGES for name in re.findall(r"python ([\w/]+\.py)", page.read_text())
    }
    assert len(named) >= 6
    assert [name for name in sorted(named) if not (ROOT / name).is_file()] == []


def test_sql_examples_work_on_the_columns_of_the_study(tmp_path):
    row = {
        "method": "naive",
        "seed": 0,
        "score": 0.8,
        "floor": 0.7,
        "ceiling": 0.9,
        "recovered": 0.5,
    }
    factors = {"task": "movie", "weak": "bag-of-words", "strong": "minilm-l6", "tuning": "probe"}
    measured = {"epochs": 2, "agreement": 0.8, "copied_errors": 0.6}
    with open_run(tmp_path / "weak-to-strong" / "small-0", {"study": "weak-to-strong"}) as run:
        run.append({**row, **factors, **measured})
    queries = [word for _, words in COMMANDS for word in words if re.match("SELECT|PIVOT", word)]
    assert len(queries) >= 4
    for sql in queries:
        assert len(query(sql, str(tmp_path))) == 1, sql


def test_the_example_study_runs_by_its_file(tmp_path, monkeypatch):
    [study] = [
        code for place, code in PYTHON if place.startswith("CONTRIBUTING") and "PAPER" in code
    ]
    (tmp_path / "my_study.py").write_text(study, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GENERALITY_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(sys, "path", list(sys.path))

    def effect() -> float:
        answer = CliRunner().invoke(app, ["run", "./my_study.py", "--json"])
        assert answer.exit_code == 0, answer.output
        [claim] = json.loads(answer.stdout)["claims"]
        assert claim["verdict"] == "holds"
        return claim["effect"]

    try:
        first = effect()
        assert effect() == first
        changed = study.replace("[0.3, 0.7]", "[0.4, 0.6]")
        assert changed != study
        (tmp_path / "my_study.py").write_text(changed, encoding="utf-8")
        assert effect() != first  # its own code counts in the keys of its steps
    finally:
        sys.modules.pop("my_study", None)


@pytest.fixture
def studies_table(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    return importlib.import_module("studies_table")


def test_tables_of_studies_are_what_the_recorded_runs_say(studies_table):
    for path, text in studies_table.tables(ROOT).items():
        assert path.read_text("utf-8") == text, f"{path}: run python docs/studies_table.py"


def test_check_writes_nothing_and_fails_on_a_stale_table(studies_table, tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text("old")
    monkeypatch.setattr(studies_table, "ROOT", tmp_path)
    monkeypatch.setattr(studies_table, "tables", lambda root: {page: "new"})
    for arguments, code, text in (["--check"], 1, "old"), ([], 0, "new"), (["--check"], 0, "new"):
        monkeypatch.setattr(sys, "argv", ["studies_table.py", *arguments])
        with pytest.raises(SystemExit) as stopped:
            studies_table.main()
        assert (int(stopped.value.code), page.read_text()) == (code, text)


def test_tables_of_a_recorded_run(studies_table, tmp_path):
    claims = [
        {"verdict": verdict, "statement": f"a | {verdict}", "seeds": 5, "effect": 0.1}
        for verdict in ("holds", "holds", "fails", "inconclusive")
    ]
    record = {"scale": "small", "rows": 8, "claims": claims}
    assert studies_table.tally(record) == "2 hold, 1 fails, 1 inconclusive (small, 5 seeds)"
    assert "✕ fails | a \\| fails | +0.1 |" in studies_table.claims_table(record)
    rows = pd.DataFrame(
        [
            {"task": "movie", "weak": "w", "epochs": 2, "method": method, "seed": seed,
             "score": score, "floor": 0.5 + seed / 100, "ceiling": 0.9, "agreement": 0.5}
            for seed in range(3) for method, score in (("naive", 0.7), ("product", 0.8))
        ]
    )  # fmt: skip
    table = studies_table.results_tables(rows)
    assert "| weak | epochs | floor | ceiling | naive | product |" in table
    assert re.search(r"\| w \| 2 \| 0\.510 \| 0\.900 \| 0\.49 \[.*\] \| 0\.74 \[.*\] \|", table)
    page = tmp_path / "page.md"
    page.write_text("<!-- a -->\nold\n<!-- /a -->\n")
    new = studies_table.replaced(page.read_text(), {"a": "new"}, page)
    assert new == "<!-- a -->\nnew\n<!-- /a -->\n"
    with pytest.raises(SystemExit, match="needs one <!-- b -->"):
        studies_table.replaced(new, {"b": ""}, page)
