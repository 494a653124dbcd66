"""The command line: what it prints, how it ends, and that no mistake of a user is a traceback."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

import tiny_study
from conftest import start
from generality import __version__
from generality.cli.options import print_json
from generality.lab.steps import StepStore

TINY = tiny_study.__file__
COMMANDS = tuple(
    "run list show claims compare predict select distill fuse serve merge ir compress reshard "
    "steer results report cache".split()
)


def strict(text: str) -> object:
    """JSON as the standard has it: NaN and Infinity are no numbers there."""

    def refuse(word: str) -> None:
        raise ValueError(word)

    return json.loads(text, parse_constant=refuse)


# ------------------------------------------------------------------------- looking


def test_help_of_every_command(generality) -> None:
    answer = generality("--help")
    assert answer.code == 0
    assert all(f" {command} " in answer.out for command in COMMANDS)
    for command in (*COMMANDS, "cache ls", "cache gc", "cache verify"):
        answer = generality(*command.split(), "--help")
        assert answer.code == 0, command
        assert "Usage:" in answer.out
        assert len(answer.out.splitlines()) > 5
    assert generality("run", "-h").out.count("--set") >= 1
    assert generality().code in (0, 2), "nothing asked: help"


def test_help_has_whole_paragraphs() -> None:
    """A line break of the source, in the middle of a sentence, is none of the terminal's."""
    from generality.cli.app import COMMANDS, help_of

    for command in COMMANDS.values():
        first, *rest = help_of(command).split("\n\n")
        assert all("\n" not in paragraph for paragraph in (first, *rest))
    assert "by every method; true labels" in help_of(COMMANDS["compare"])


def test_version(generality) -> None:
    assert generality("--version").out == f"generality {__version__}\n"


def test_studies_are_listed_and_shown(generality) -> None:
    (first, *_) = strict(generality("list", "--json").out)
    assert set(first) == {"study", "family", "title", "paper"}
    assert first["study"] in generality("list").out
    shown = strict(generality("show", TINY, "--scale", "smoke", "--json").out)
    assert shown["config"]["seeds"] == 2
    assert shown["claims"][0]["statement"] == "Practice [helps]"
    text = generality("show", TINY).out
    assert "idle,practised" in text
    assert "Practice [helps]" in text, "brackets are no markup"


# ------------------------------------------------------------------------- running


def test_a_run_from_question_to_page(generality, tmp_path: Path, home: Path) -> None:
    answer = generality("run", TINY, "--scale", "smoke", "--json")
    assert answer.code == 0, answer.err
    said = strict(answer.out)
    assert said["study"] == "tiny-study"
    page = Path(said["report"])
    assert "</html>" in page.read_text()
    directory = page.parent
    assert directory.parent == Path("runs/tiny-study")
    assert {path.name for path in directory.iterdir()} >= {
        "config.json", "rows.parquet", "claims.json", "environment.json", "report.html",
    }  # fmt: skip

    again = generality("run", TINY, "--scale", "smoke")
    assert "0 steps computed, 4 reused" in again.out
    assert "practised" in again.out

    rows = strict(generality("results", "SELECT * FROM rows ORDER BY ALL", "--json").out)
    assert [row["score"] for row in rows] == pytest.approx([0.5, 0.51, 0.55, 0.56])
    assert {row["study"] for row in rows} == {"tiny-study"}
    assert "tiny-study" in generality("results").out
    assert "[bold]" in generality("results", "SELECT '[bold]' AS x FROM rows LIMIT 1").out

    verdicts = strict(generality("claims", TINY, "--scale", "smoke", "--json").out)
    assert verdicts[0]["rows"] == 4
    assert [claim["statement"] for claim in verdicts[0]["claims"]] == [
        "Practice [helps]", "Practice is not all",
    ]  # fmt: skip
    answer = generality("claims", TINY, "--scale", "smoke", "--write", "verdicts")
    assert "Practice [helps]" in answer.out
    assert strict(Path("verdicts/tiny-study.json").read_text()) == verdicts[0]
    assert "no finished run at full" in generality("claims", TINY, "--scale", "full").out

    page.unlink()
    answer = generality("report", directory)
    assert answer.code == 0
    assert page.exists()
    assert strict(generality("report", directory, "--json").out)[0]["report"] == str(page)

    kinds = strict(generality("cache", "ls", "--json").out)
    assert kinds["home"] == str(home / "steps")
    assert [kind["entries"] for kind in kinds["steps"]] == [4]
    assert "4 entries, 0 damaged" in generality("cache", "verify").out


def test_settings_and_seeds_change_the_question(generality) -> None:
    first = strict(generality("run", TINY, "--json", "--seeds", "1").out)
    second = strict(
        generality("run", TINY, "--json", "--set", "seeds=1", "--set", "practice=2").out
    )
    assert Path(first["report"]).parent != Path(second["report"]).parent
    scores = strict(generality("results", "SELECT max(score) AS best FROM rows", "--json").out)
    assert scores == [{"best": pytest.approx(0.7)}]


def test_workers_answer_the_same(generality) -> None:
    generality("run", TINY, "--scale", "smoke", "--out", "here")
    answer = generality("run", TINY, "--scale", "smoke", "--set", "log=log", "--on", "processes:2")
    assert answer.code == 0, answer.err
    sql = "SELECT * EXCLUDE (run) FROM rows ORDER BY ALL"
    assert generality("results", sql, "--out", "here").out == generality("results", sql).out


def test_a_tracker_leaves_the_json_alone(generality, tmp_path: Path, monkeypatch) -> None:
    pytest.importorskip("trackio")
    for module in [name for name in sys.modules if name.split(".")[0] == "trackio"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    answer = generality("run", TINY, "--scale", "smoke", "--track", "trackio", "--json")
    assert strict(answer.out)
    assert (tmp_path / "trackio" / "generality-tiny-study.db").exists()


# ------------------------------------------------------------------------- the cache


def test_damage_is_found_told_and_cleaned(generality, home: Path) -> None:
    generality("run", TINY, "--scale", "smoke")
    entries = StepStore(home / "steps").entries()
    (entries[0].folder / "result.json").write_text("0.9")
    (entries[1].folder / "manifest.json").unlink()
    answer = generality("cache", "verify")
    assert answer.code == 2
    assert "4 entries, 2 damaged" in answer.out
    damaged = strict(generality("cache", "verify", "--json").out)["damaged"]
    assert {entry["key"] for entry in damaged} == {entry.key for entry in entries[:2]}
    answer = generality("run", TINY, "--scale", "smoke")
    assert "2 steps computed, 2 reused" in answer.out
    assert answer.err.count("computed again") == 2
    assert answer.err.startswith("Warning: Cache entry")
    assert generality("cache", "verify").code == 0
    (StepStore(home / "steps").entries()[0].folder / "result.json").write_text("0.9")
    generality("cache", "gc")
    assert "3 entries, 0 damaged" in generality("cache", "verify").out
    generality("cache", "gc", "--max-size", "0B")
    assert "0 entries" in generality("cache", "verify").out


# ------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("rum", "There is no command 'rum'. Did you mean 'run'?"),
        ("cache lss", "lss"),
        ("run weak-to-stong", "There is no study 'weak-to-stong'. Did you mean 'weak-to-strong'?"),
        ("run nowhere.py", "There is no file nowhere.py"),
        ("show weak", "There is no study 'weak'"),
        ("claims weak-to-stong", "Did you mean 'weak-to-strong'?"),
        ("claims --scale smal", "There is no scale 'smal'. Did you mean 'small'?"),
        (f"run {TINY} --scale smal", "There is no scale 'smal'. Did you mean 'small'?"),
        (f"show {TINY} --scale smal", "There is no scale 'smal'. Did you mean 'small'?"),
        (f"run {TINY} --set seed=1", "There is no setting 'seed'. Did you mean 'seeds'?"),
        (f"run {TINY} --set seeds", "--set seeds: write key=value."),
        (f"run {TINY} --set seeds=x", "--set seeds=x: that is no int."),
        (f"run {TINY} --seeds 0", "Invalid value for '--seeds'"),
        (f"run {TINY} --track mlfow", "There is no tracker 'mlfow'. Did you mean 'mlflow'?"),
        (f"run {TINY} --device gpu", "There is no device 'gpu'."),
        (f"run {TINY} --on process:2", "choose in-process, processes:N"),
        (f"run {TINY} --on processes:0", "write processes:N with N ≥ 1"),
        (f"run {TINY} --set mode=mistaken", "The data of seed 1 lacks a column; add it."),
        (f"run {TINY} --set mode=mistaken --on processes:2", "The data of seed 1 lacks a column"),
        (f"run {TINY} --set mode=lethal --on processes:2", "most likely for lack of memory"),
        (f"run {TINY} --out file", "choose another with --out"),
        (f"run {TINY} --outt x", "No such option: --outt"),
        ("run", "Missing argument"),
        ("results --out nowhere", "There are no runs below nowhere"),
        ("results --out foo://nowhere", "The runs at foo://nowhere cannot be read"),
        ("report nowhere", "nowhere is no run"),
        ("report .", "is no run"),
        ("cache gc --max-size lots", "write a size such as 500MB or 20GB"),
        ("predict nowhere data.csv", "data.csv"),
        ("predict nowhere data.csv -o out.xlsx", "must end in .csv, .jsonl, .parquet"),
        ("predict nowhere data.csv -o none/out.csv", "does not exist; make it"),
        ("predict nowhere data.csv -o data.csv", "would take the place of the data"),
        ("compare missing.csv --draws nan", "Invalid value for '--draws'"),
        ("ir . --memory inf", "--memory is a finite number, not inf."),
        ("compare missing.csv", "missing.csv"),
    ],
)  # fmt: skip
def test_mistakes_are_one_sentence(generality, command: str, message: str) -> None:
    Path("file").write_text("")
    answer = generality(*command.split())
    assert answer.code == 2
    assert message in " ".join(re.sub("[│╭╮╰╯─]", " ", answer.err).split())
    assert "Traceback" not in answer.out + answer.err
    assert answer.out == ""


def test_a_study_of_your_own_is_a_python_file(generality, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("text,label\n")
    answer = generality("run", "rows.csv")
    assert answer.code == 2
    assert "rows.csv is no study: a study of your own is a Python file" in answer.err


def test_mistyped_columns_and_sql(generality) -> None:
    generality("run", TINY, "--scale", "smoke")
    for sql, message in (
        ("SELECT scor FROM rows", "There is no column 'scor'. Did you mean 'score'?"),
        ("SELEC", "The query failed"),
    ):
        answer = generality("results", sql)
        assert (answer.code, answer.out) == (2, "")
        assert message in answer.err


def test_damaged_runs_are_said(generality) -> None:
    directory = Path(
        strict(generality("run", TINY, "--scale", "smoke", "--json").out)["report"]
    ).parent
    (directory / "rows.parquet").write_bytes(b"nonsense")
    answer = generality("results")
    assert (answer.code, answer.out) == (2, "")
    assert "The query failed" in answer.err
    (directory / "claims.json").write_text("[{")
    answer = generality("claims", TINY, "--scale", "smoke")
    assert answer.code == 0
    assert "no finished run" in answer.out
    answer = generality("report", directory)
    assert answer.code == 0, answer.err
    answer = generality("run", TINY, "--scale", "smoke")
    assert answer.code == 0
    assert len(pd.read_parquet(directory / "rows.parquet")) == 4
    assert strict((directory / "claims.json").read_text())


def test_an_unwritable_home_is_said(generality, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "nofolder").write_text("")
    monkeypatch.setenv("GENERALITY_HOME", str(tmp_path / "nofolder"))
    answer = generality("run", TINY, "--scale", "smoke")
    assert answer.code == 2
    assert "point GENERALITY_HOME to another folder" in answer.err


def test_a_bug_of_ours_is_no_mistake_of_yours(generality, tmp_path: Path) -> None:
    source = Path(TINY).read_text().replace("    items = [", "    items = 1 / 0\n    items = [", 1)
    Path("buggy_study.py").write_text(source)
    with pytest.raises(ZeroDivisionError):
        generality("run", "buggy_study.py")


# ------------------------------------------------------------------------- interruptions


def test_ctrl_c_says_that_the_same_command_goes_on(tmp_path: Path) -> None:
    gate, log = tmp_path / "gate", tmp_path / "log"
    command = gated(gate, log)
    first = start(*command, home=tmp_path / "home", cwd=tmp_path)
    until(Path(f"{gate}.reached").exists)
    first.send_signal(signal.SIGINT)
    out, err = first.communicate(timeout=60)
    assert first.returncode == 130
    assert err == "Stopped. Finished steps are kept: the same command goes on from here.\n"
    assert out == ""
    (rows,) = tmp_path.glob("runs/*/*/rows.parquet")
    assert len(pd.read_parquet(rows)) == 2
    gate.write_text("")
    second = start(*command, home=tmp_path / "home", cwd=tmp_path)
    out, err = second.communicate(timeout=120)
    assert second.returncode == 0, err
    environment = json.loads((rows.parent / "environment.json").read_text())
    assert environment["steps"] == {"computed": 2, "reused": 2}
    assert sorted(log.read_text().splitlines()) == [
        "idle 0",
        "idle 1",
        "practised 0",
        "practised 1",
    ]
    assert len(pd.read_parquet(rows)) == 4
    assert strict(out)


def test_the_same_run_twice_at_once(tmp_path: Path) -> None:
    gate, log = tmp_path / "gate", tmp_path / "log"
    command = gated(gate, log)
    said = [tmp_path / "said0", tmp_path / "said1"]
    both = [
        start(*command, home=tmp_path / "home", cwd=tmp_path, stderr=path.open("w"))
        for path in said
    ]
    until(lambda: any("waiting for it to finish" in path.read_text() for path in said))
    gate.write_text("")
    rows = [strict(process.communicate(timeout=120)[0]) for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert rows[0]["report"] == rows[1]["report"]
    assert len(log.read_text().splitlines()) == 4, "each step once"
    (path,) = tmp_path.glob("runs/*/*/rows.parquet")
    assert len(pd.read_parquet(path)) == 4


def test_a_reader_that_has_seen_enough(tmp_path: Path) -> None:
    for command, codes in ((["list"], {0}), (["run", "--help"], {0, 1})):  # help is typer's own
        process = start(*command, home=tmp_path / "home", cwd=tmp_path)
        process.stdout.close()
        err = process.stderr.read()
        assert err == ""
        assert process.wait(60) in codes


def test_python_m_and_the_script_are_the_same(tmp_path: Path) -> None:
    script = Path(sys.executable).with_name("generality")
    if not script.exists():
        pytest.skip("generality is not installed as a script here")
    said = subprocess.run([script, "--version"], capture_output=True, text=True)
    assert said.stdout == f"generality {__version__}\n"


def gated(gate: Path, log: Path) -> list[str]:
    """A run that waits in its second seed, and logs what it computes."""
    settings = ("--set", f"gate={gate}", "--set", f"log={log}")
    return ["run", TINY, "--scale", "smoke", "--json", *settings]


def until(true) -> None:
    deadline = time.monotonic() + 90
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_json_knows_no_nan(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"a": [float("nan"), (1, float("-inf"))], "where": Path("x")})
    assert strict(capsys.readouterr().out) == {"a": [None, [1, None]], "where": "x"}
