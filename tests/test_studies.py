"""Every study, at its smallest; the knobs; what running one leaves behind."""

import ast
import functools
import inspect
import math
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

import tiny_study
from generality.claims import Claim
from generality.errors import UserError
from generality.lab import Lab, RunRecord
from generality.studies import Paper, Study, configure, find_studies, find_study, run_study
from generality.studies.execute import with_recovered
from generality.studies.study import SCALES

STUDIES = find_studies()
TINY = Study("tiny-study", "own", tiny_study)
every_study = pytest.mark.parametrize("study", STUDIES, ids=lambda study: study.name)


@pytest.fixture(scope="module")
def smoke(
    tmp_path_factory: pytest.TempPathFactory, artifacts: Path
) -> Callable[[Study], tuple[Path, RunRecord]]:
    """The first smoke run of a study, and the folder of its steps and runs."""

    @functools.cache
    def first(study: Study) -> tuple[Path, RunRecord]:
        root = tmp_path_factory.mktemp("smoke")
        return root, smoke_run(study, root / "steps", root / "runs")

    return first


def smoke_run(study: Study, steps: Path, runs: Path) -> RunRecord:
    lab = Lab(home=steps, device="cpu", progress=False)
    return run_study(study, configure(study, "smoke"), lab, scale="smoke", root=runs)


# ------------------------------------------------------------------------- every study


@every_study
def test_a_study_is_complete(study: Study) -> None:
    assert study.title
    assert len(study.title) <= 120
    assert study.title == (study.module.__doc__ or "").splitlines()[0].rstrip(".")
    assert study.paper == study.module.PAPER
    assert isinstance(study.paper, Paper)
    assert study.factors is not None, "FACTORS names the columns that are set"
    assert study.paper.title
    assert 1990 <= study.paper.year <= 2100
    assert set(study.scales) == set(SCALES)
    assert study.claims
    assert all(isinstance(claim, Claim) and claim.statement for claim in study.claims)
    assert all(claim.expected_at in SCALES for claim in study.claims)
    assert len({claim.statement for claim in study.claims}) == len(study.claims)
    assert len({type(config) for config in study.scales.values()}) == 1


@every_study
def test_seeds_are_never_picked(study: Study) -> None:
    """Seeds are 0, 1, 2, …: none is written down, but 0 for what all seeds share."""
    for node in ast.walk(ast.parse(inspect.getsource(study.module))):
        if isinstance(node, ast.keyword) and node.arg == "seed":
            assert not isinstance(node.value, ast.Constant) or node.value.value == 0, node.lineno


@pytest.mark.slow
@every_study
def test_the_smoke_scale_runs(study: Study, smoke) -> None:
    _, record = smoke(study)
    rows = record.rows
    assert len(rows) > 0
    assert rows["method"].map(lambda name: isinstance(name, str)).all()
    assert rows["score"].map(math.isfinite).all()
    words = {name for name in rows if rows[name].map(lambda value: isinstance(value, str)).any()}
    assert words - {"method"} <= set(study.factors or ()), "words are settings: declare them"
    for level in ("floor", "ceiling"):
        assert rows[level].dropna().map(math.isfinite).all()
    for _, seeds in rows.groupby("method")["seed"]:
        assert sorted(set(seeds)) == list(range(seeds.nunique()))
    assert [verdict["statement"] for verdict in record.claims] == [
        claim.statement for claim in study.claims
    ]
    assert {verdict["verdict"] for verdict in record.claims} <= {"holds", "fails", "inconclusive"}
    assert record.environment["steps"]["computed"] > 0


@pytest.mark.slow
@every_study
def test_asked_again_nothing_is_computed(study: Study, smoke) -> None:
    root, first = smoke(study)
    stamp = (first.directory / "rows.parquet").stat().st_mtime_ns
    again = smoke_run(study, root / "steps", root / "runs")
    assert again.environment["steps"]["computed"] == 0
    assert again.directory == first.directory
    assert (first.directory / "rows.parquet").stat().st_mtime_ns == stamp, "confirmed, not written"
    pd.testing.assert_frame_equal(again.rows, first.rows)
    assert again.claims == first.claims


@pytest.mark.slow
@every_study
def test_from_nothing_the_same_rows_come_again(study: Study, smoke, tmp_path: Path) -> None:
    _, first = smoke(study)
    anew = smoke_run(study, tmp_path / "steps", tmp_path / "runs")
    assert anew.environment["steps"]["computed"] == first.environment["steps"]["computed"]
    pd.testing.assert_frame_equal(anew.rows, first.rows)


# ------------------------------------------------------------------------- finding


def test_a_mistyped_study_is_suggested() -> None:
    with pytest.raises(UserError, match="Did you mean 'weak-to-strong'"):
        find_study("weak-to-stong")


def test_a_study_of_your_own_is_a_file(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    found = find_study(tiny_study.__file__)
    assert (found.name, found.family) == ("tiny-study", "own")
    assert found.title == (
        "Does more practice help? A study of no model, for the tests of what surrounds studies"
    )
    with pytest.raises(UserError, match=r"no file missing\.py"):
        find_study("missing.py")
    (tmp_path / "half_a_study.py").write_text("SCALES = {}\nCLAIMS = ()\n")
    with pytest.raises(UserError, match="it lacks run, PAPER"):
        find_study("half_a_study.py")
    (tmp_path / "json.py").write_text("")
    with pytest.raises(UserError, match="rename it"):
        find_study("json.py")
    assert sys.path[-1] == str(tmp_path), "no file beside a study hides one of Python's modules"


# ------------------------------------------------------------------------- knobs


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("seeds=7", 7),
        ("practice=2", 2.0),
        ("practice=1e-3", 0.001),
        ("arms=idle", ("idle",)),
        ("arms=a, b ,c", ("a", "b", "c")),
        ("arms=", ()),
        ("sizes=1,2,30", (1, 2, 30)),
        ("mode=torn", "torn"),
        ("rounds=2", 2),
        ("limit=3", 3),
        ("limit=0.5", 0.5),
        ("limit=none", None),
        ("loud=true", True),
        ("loud=0", False),
        ('extra={"a": 1}', {"a": 1}),
        ("gate=a=b", "a=b"),
    ],
)
def test_settings_are_read_as_their_type(setting: str, value: object) -> None:
    key = setting.partition("=")[0]
    found = getattr(configure(TINY, "small", [setting]), key)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("seed=3", "no setting 'seed'. Did you mean 'seeds'?"),
        ("seeds", "--set seeds: write key=value"),
        ("seeds=many", "--set seeds=many: that is no int"),
        ("seeds=", "--set seeds=: that is no int"),
        ("seeds=2.5", "--set seeds=2.5: that is no int"),
        ("practice=long", "--set practice=long: that is no float"),
        ("sizes=1,x", "--set sizes=x: that is no int"),
        ("loud=maybe", "--set loud=maybe: that is no bool"),
        ("mode=plan", "no value of mode 'plan'. Did you mean 'plain'?"),
        ("rounds=3", "no value of rounds '3'"),
        ("limit=x", "--set limit=x: that is no float"),
        ("extra={", "--set extra={: that is no dict"),
    ],
)
def test_bad_settings_are_said(setting: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        configure(TINY, "small", [setting])
    assert message in str(error.value)


def test_a_mistyped_scale_is_suggested() -> None:
    with pytest.raises(UserError, match="no scale 'smal'. Did you mean 'small'"):
        configure(TINY, "smal")


@every_study
def test_every_setting_can_be_written_as_it_is_shown(study: Study) -> None:
    """`show` prints tuples with commas; what it prints, --set reads."""
    for scale, config in study.scales.items():
        shown = {
            name: ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
            for name, value in vars(config).items()
        }
        settings = [f"{name}={value}" for name, value in shown.items()]
        assert configure(study, scale, settings) == config


@every_study
@pytest.mark.parametrize("seeds", [1, 2])
def test_fewer_seeds_make_a_valid_configuration(study: Study, seeds: int) -> None:
    assert configure(study, "smoke", [f"seeds={seeds}"]).seeds == seeds


# ------------------------------------------------------------------------- running


class Recorder:
    def __init__(self) -> None:
        self.said: list[object] = []

    def start(self, study: str, config: dict) -> None:
        self.said.append(study)

    def log(self, row: dict) -> None:
        self.said.append((row["method"], row["seed"]))

    def finish(self) -> None:
        self.said.append("finished")


def tiny_run(tmp_path: Path, *settings: str, **options: object) -> RunRecord:
    lab = Lab(home=tmp_path / "steps", device="cpu", progress=False)
    return run_study(
        TINY, configure(TINY, "smoke", settings), lab, root=tmp_path / "runs", **options
    )


def test_a_run_leaves_its_question_rows_verdicts_and_surroundings(tmp_path: Path) -> None:
    sink, seen = Recorder(), []
    record = tiny_run(tmp_path, sink=sink, on_row=seen.append)
    assert record.config["study"] == "tiny-study"
    assert record.config["config"]["practice"] == 0.5
    assert record.rows["recovered"].tolist() == pytest.approx([0.2, 0.3, 0.22, 0.32])
    assert [row["score"] for row in seen] == record.rows["score"].tolist()
    assert [verdict["statement"] for verdict in record.claims] == [
        "Practice [helps]", "Practice is not all",
    ]  # fmt: skip
    assert record.environment["steps"] == {"computed": 4, "reused": 0}
    pairs = [(arm, seed) for seed in (0, 1) for arm in ("idle", "practised")]
    assert sink.said == ["tiny-study", *pairs, "finished"]


def test_a_run_that_fails_keeps_its_rows_and_closes_its_tracker(tmp_path: Path) -> None:
    sink = Recorder()
    with pytest.raises(UserError, match="lacks a column"):
        tiny_run(tmp_path, "mode=mistaken", sink=sink)
    assert sink.said[-1] == "finished"
    (rows,) = (tmp_path / "runs").glob("*/*/rows.parquet")
    assert len(pd.read_parquet(rows)) == 2


def test_the_recovered_share_is_added_where_it_can_be() -> None:
    assert with_recovered({"score": 0.6, "floor": 0.5, "ceiling": 0.7})["recovered"] == (
        pytest.approx(0.5)
    )
    assert with_recovered({"score": 0.6, "floor": 0.7, "ceiling": 0.5})["recovered"] is None
    lower = {"score": 3.0, "floor": 4.0, "ceiling": 2.0, "lower_is_better": True}
    assert with_recovered(lower)["recovered"] == pytest.approx(0.5)
    assert "recovered" not in with_recovered({"score": 0.6, "floor": 0.5})
    assert (
        with_recovered({"recovered": 0.1, "score": 1, "floor": 0, "ceiling": 1})["recovered"] == 0.1
    )
