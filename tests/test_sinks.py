"""Copies of a run in MLflow and trackio (the real ones, in a folder) and W&B (a stand-in)."""

import json
import sqlite3
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from generality.errors import UserError
from generality.lab.sinks import make_sink

CONFIG = {"study": "toy", "config": {"seeds": 2, "arms": ("a", "b")}}
ROWS = [
    {"method": "naive", "seed": 0, "score": 0.5, "recovered": None, "weak": "bag", "deep": True},
    {"method": "naïve (k=5)", "seed": 1, "score": 0.75, "epochs": 2},
]


def send(name: str) -> None:
    sink = make_sink(name)
    sink.start("toy", CONFIG)
    for row in ROWS:
        sink.log(row)
    sink.finish()


def test_mlflow_gets_parameters_and_numbers(tmp_path: Path, monkeypatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri((tmp_path / "ml").as_uri())
    send("mlflow")
    (run,) = mlflow.MlflowClient().search_runs(
        [mlflow.get_experiment_by_name("generality/toy").experiment_id]
    )
    assert run.info.status == "FINISHED"
    assert run.data.params == {
        "study": "toy", "config.seeds": "2", "config.arms": "('a', 'b')",
    }  # fmt: skip
    assert run.data.metrics == {
        "naive/score": 0.5, "naïve _k_5_/score": 0.75, "naïve _k_5_/epochs": 2.0,
    }  # fmt: skip


def test_a_tracker_that_fails_is_said(tmp_path: Path, monkeypatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    mlflow.set_tracking_uri("http://127.0.0.1:9")
    with pytest.raises(UserError, match="^mlflow failed: .*without --track"):
        send("mlflow")


def test_trackio_keeps_a_database_and_standard_output_clean(
    tmp_path: Path, monkeypatch, capsys
) -> None:
    pytest.importorskip("trackio")
    for module in [name for name in sys.modules if name.split(".")[0] == "trackio"]:
        monkeypatch.delitem(sys.modules, module)  # where to is read when it is imported
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))
    send("trackio")
    out, err = capsys.readouterr()
    assert out == ""
    assert "generality-toy" in err
    with sqlite3.connect(tmp_path / "generality-toy.db") as database:
        logged = [json.loads(text) for (text,) in database.execute("SELECT metrics FROM metrics")]
        (config,) = database.execute("SELECT config FROM configs").fetchone()
    assert {"naive/score": 0.5} in logged
    assert {"naïve _k_5_/score": 0.75, "naïve _k_5_/epochs": 2.0} in logged
    assert json.loads(config)["config.seeds"] == "2"


def test_wandb_gets_the_same(monkeypatch, capsys) -> None:
    said: list[object] = []

    def init(**options: object) -> SimpleNamespace:
        print("wandb: hello")
        said.append(options)
        return SimpleNamespace(log=said.append, finish=lambda: said.append("finished"))

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    send("wandb")
    assert said == [
        {"project": "generality", "group": "toy", "config": CONFIG},
        {"naive/score": 0.5},
        {"naïve _k_5_/score": 0.75, "naïve _k_5_/epochs": 2.0},
        "finished",
    ]
    assert capsys.readouterr().out == ""


def test_mlflow_without_a_store_says_what_to_do(monkeypatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setattr(mlflow, "is_tracking_uri_set", lambda: False)
    monkeypatch.setattr("generality.lab.sinks.find_spec", lambda name: None)
    with pytest.raises(UserError, match="nowhere to write: set MLFLOW_TRACKING_URI"):
        send("mlflow")


@pytest.mark.parametrize("name", ["mlflow", "wandb", "trackio"])
def test_a_tracker_is_an_extra(monkeypatch, name: str) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=rf"pip install 'generality\[{name}\]'"):
        make_sink(name).start("toy", {})


def test_a_mistyped_tracker_is_suggested() -> None:
    with pytest.raises(UserError, match="no tracker 'mlfow'. Did you mean 'mlflow'"):
        make_sink("mlfow")
