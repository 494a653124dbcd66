"""The lab as a study sees it: steps, features, trainings, replicas, the record of a run."""

from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from torch.optim.optimizer import register_optimizer_step_post_hook

import tiny_models
from generality.errors import UserError
from generality.lab import Lab, TrainConfig
from generality.lab import finetune as room
from generality.lab import lab as lab_module
from generality.lab.progress import ProgressBars
from generality.objectives import soft_cross_entropy


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(home=tmp_path / "steps", device="cpu", progress=False)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("tiny")
    tiny_models.bert().save_pretrained(folder)
    tiny_models.tokenizer().save_pretrained(folder)
    return str(folder)


def test_its_home_is_the_environments(home: Path) -> None:
    assert Lab().steps.root == home / "steps"


def test_a_device_that_is_not_there_is_said() -> None:
    with pytest.raises(UserError, match="Did you mean 'cuda'"):
        Lab(device="cude")
    with pytest.raises(UserError, match="choose in-process"):
        Lab(on="somewhere")


def test_seeds_are_fixed_before_anyone_looks(lab: Lab) -> None:
    assert list(lab.seeds(4)) == [0, 1, 2, 3]


def test_models_are_embedded_by_name_once(lab: Lab, model: str, tmp_path: Path) -> None:
    texts = tiny_models.texts(20)
    found = lab.embed(model, texts, layer=1, pooling="cls")
    assert found.shape == (20, 16)
    other = Lab(home=lab.steps.root, device="cpu", progress=False)
    np.testing.assert_array_equal(other.embed(model, texts, layer=1, pooling="cls"), found)
    assert (other.steps.computed, other.steps.reused) == (0, 1)
    assert lab.embed("bag-of-words", texts).shape[0] == 20
    with pytest.raises(UserError, match="minilm-l6"):
        lab.embed("minilm", texts)


def test_changed_weights_are_embedded_anew(lab: Lab, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(lab_module, "_encoder", lab_module._encoder.__wrapped__)
    folder = tmp_path / "model"
    found = []
    for seed in (0, 1):
        tiny_models.bert(seed).save_pretrained(folder)
        tiny_models.tokenizer().save_pretrained(folder)
        found.append(lab.embed(str(folder), ["good film"]))
    assert lab.steps.computed == 2
    assert np.abs(found[0] - found[1]).max() > 0.01


def test_probes_of_all_seeds_train_together_and_are_kept(lab: Lab) -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(60, 5)).astype(np.float32)
    labels = (features[:, 0] > 0).astype(int)
    rows = np.stack([rng.permutation(60)[:40] for _ in range(3)])
    options = {"loss": soft_cross_entropy, "epochs": 30, "learning_rate": 0.05, "optimizer": "adam"}
    targets = np.eye(2, dtype=np.float32)[labels[rows]]
    found = lab.probe(features, rows, targets, **options)
    assert found.shape == (3, 60, 2)
    np.testing.assert_allclose(found.sum(-1), 1, atol=1e-5)
    assert ((found.argmax(-1) == labels).mean(1) > 0.9).all()
    np.testing.assert_array_equal(lab.probe(features, rows, targets, **options), found)
    assert (lab.steps.computed, lab.steps.reused) == (1, 1)
    lab.probe(features, rows, targets, **{**options, "epochs": 31})
    assert lab.steps.computed == 2


def tuned(lab: Lab, model: str, **changes: object):
    texts = tiny_models.texts(16)
    options = {
        "objective": soft_cross_entropy,
        "config": TrainConfig(epochs=1, learning_rate=1e-3),
        "predict": {"test": texts[:3], "none": []},
        "seed": 0,
        "pooling": "mean",
        **changes,
    }
    targets = np.eye(2, dtype=np.float32)[[0, 1] * 8]
    return lab.finetune(model, texts, targets, **options)


def test_a_training_is_kept_by_everything_that_made_it(lab: Lab, model: str) -> None:
    first = tuned(lab, model)
    assert first.probabilities["test"].shape == (3, 2)
    again = tuned(lab, model)
    np.testing.assert_array_equal(first.probabilities["test"], again.probabilities["test"])
    assert again.losses == first.losses
    assert (lab.steps.computed, lab.steps.reused) == (1, 1)
    for change in ({"seed": 1}, {"config": TrainConfig(epochs=2)}, {"tuning": "lora"}):
        tuned(lab, model, **change)
    assert lab.steps.computed == 4
    assert not (lab.steps.root / "partial").exists() or not list(
        (lab.steps.root / "partial").iterdir()
    )


def test_a_training_that_ended_is_not_repeated_for_its_predictions(
    lab: Lab, model: str, monkeypatch
) -> None:
    """A kill after the last step and before the result is kept costs the predictions only."""
    expected = tuned(Lab(home=lab.steps.root / "other", device="cpu", progress=False), model)
    real = room.TextClassifier.predict_proba

    def dies(*_, **__):
        raise RuntimeError("killed")

    monkeypatch.setattr(room.TextClassifier, "predict_proba", dies)
    with pytest.raises(RuntimeError, match="killed"):
        tuned(lab, model)
    (checkpoint,) = (lab.steps.root / "partial").iterdir()
    assert list(checkpoint.iterdir())
    monkeypatch.setattr(room.TextClassifier, "predict_proba", real)
    updates: list[int] = []
    hook = register_optimizer_step_post_hook(lambda *_: updates.append(1))
    found = tuned(lab, model)
    hook.remove()
    assert updates == []
    np.testing.assert_allclose(
        found.probabilities["test"], expected.probabilities["test"], atol=1e-6
    )
    assert not checkpoint.exists()


def test_a_map_counts_what_its_items_did(lab: Lab) -> None:
    assert list(lab.map(increment, [1, 2, 1])) == [2, 3, 2]
    assert (lab.steps.computed, lab.steps.reused) == (2, 1)


def increment(lab: Lab, item: int) -> int:
    return lab.step(successor, item)


def successor(number: int) -> int:
    return number + 1


def test_the_environment_says_what_it_ran_on(lab: Lab) -> None:
    lab.step(successor, 1)
    lab.step(successor, 1)
    said = lab.environment()
    assert said["steps"] == {"computed": 1, "reused": 1}
    assert said["packages"]["torch"] == version("torch")
    assert said["machine"]["cores"] >= 1
    assert said["device"] == "cpu"
    assert said["seconds"] >= 0


def test_progress_off_a_terminal_is_a_line_now_and_then(capsys, monkeypatch) -> None:
    from generality.lab import progress

    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    bars = ProgressBars()
    bars.console = progress.Console(stderr=True, force_terminal=False)
    with bars.task("Embedding") as report:
        report(0, 100)
        for done, now[0] in ((10, 5.0), (40, 20.0), (50, 25.0), (80, 40.0)):
            report(done, 100, {"loss": 0.25})
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "Embedding: 40/100, 30 s left loss 0.25",
        "Embedding: 80/100, 10 s left loss 0.25",
    ]


def test_progress_on_a_terminal_shows_what_takes_long(monkeypatch) -> None:
    from io import StringIO

    from generality.lab import progress

    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    bars = ProgressBars()
    bars.console = progress.Console(file=StringIO(), force_terminal=True, width=100)
    with bars.task("Quick") as report:
        report(1, 2)
        now[0] = 3.0
        with bars.task("Inner") as inner:
            inner(1, 2)
        assert bars._bars is not None
        shown = {task.description: task.visible for task in bars._bars.tasks}
        assert shown == {"Quick": False}
        report(2, 2, {"loss": 0.5})
        assert [task.visible for task in bars._bars.tasks] == [True]
    assert bars._bars is None
    with ProgressBars(enabled=False).task("Silent") as report:
        report(1, 1)


def test_kept_features_need_no_model(
    tmp_path: Path, artifacts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ["a fine film", "a dull one"]
    first = Lab(home=tmp_path, device="cpu", progress=False).embed("minilm-l6", texts, layer=1)
    lab_module._encoder.cache_clear()
    monkeypatch.setattr("generality.lab.encoders.load_model", None)  # loading would crash
    again = Lab(home=tmp_path, device="cpu", progress=False)
    np.testing.assert_array_equal(again.embed("minilm-l6", texts, layer=1), first)
    with pytest.raises(TypeError, match="not callable"):
        again.embed("minilm-l6", texts, layer=2)
