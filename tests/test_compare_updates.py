"""`generality compare`: updates that must not break what worked; students that teach themselves."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from datasets import Dataset

from generality.compare import METHODS, compare_weak_labels, load_classifier
from generality.compare.leaderboard import leaderboard, winner
from generality.errors import UserError
from generality.lab import Lab
from generality.report import write_report

WORDS = {"bad": "dull slow weak grim".split(), "good": "fine warm bright keen".split()}


def notes(n: int = 160) -> pd.DataFrame:
    """Texts whose class shows in their words, weak labels, an old model with its own errors."""
    rng = np.random.default_rng(0)
    label = rng.choice(["bad", "good"], n)
    texts = [
        " ".join(rng.permutation([*rng.choice(WORDS[each], 3), *rng.choice(["a", "the", "it"], 2)]))
        for each in label
    ]
    other = np.where(label == "good", "bad", "good")
    flipped = {name: rng.random(n) < share for name, share in (("weak", 0.2), ("old", 0.15))}
    columns = {name: np.where(wrong, other, label) for name, wrong in flipped.items()}
    return pd.DataFrame({"text": texts, "label": label, **columns})


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(home=tmp_path_factory.mktemp("steps"), device="cpu", progress=False)


def compare(lab: Lab, root: Path, frame: pd.DataFrame | None = None, **options: object):
    data = Dataset.from_pandas(notes() if frame is None else frame, preserve_index=False)
    options = {"label": "label", "model": "bag-of-words", "seeds": 2, "epochs": 3, **options}
    return compare_weak_labels(data, lab=lab, root=root, **options)


def test_an_update_is_chosen_by_what_it_keeps(kept: Lab, tmp_path: Path) -> None:
    methods = ["naive", "self-distillation", "compatible", "distill-average", "distill-old"]
    record = compare(kept, tmp_path, weak_label="weak", old_model="old", methods=methods)
    rows = record.rows
    assert list(dict.fromkeys(rows["method"])) == methods
    assert rows["old_score"].between(0.7, 1).all()
    for _, row in rows.iterrows():  # flips are against the old model
        change = row["old_score"] - row["score"]
        assert row["negative_flips"] - row["positive_flips"] == pytest.approx(change)
    means = rows.groupby("method")[["select", "select_flips", "select_error"]].mean()
    best = means.loc[means["select"].idxmax()]
    close = means[means["select"] >= best["select"] - best["select_error"]]
    assert record.config["winner"] == winner(rows)
    assert means.loc[record.config["winner"], "select_flips"] == close["select_flips"].min()
    losses = rows.groupby("method")["weak_loss"].mean()
    assert losses[["naive", "compatible", "distill-average", "distill-old"]].nunique() == 4
    said = " ".join(record.config["conclusions"])
    assert "right answers" in said
    assert "An update between these accuracies has to break" in said
    assert [claim["test"] for claim in record.claims][1].startswith("negative_flips")
    assert "negative" in write_report(record.directory).read_text()
    assert json.dumps([each.to_dict() for each in leaderboard(rows)], allow_nan=False)
    classifier = load_classifier(record.directory)
    assert classifier.predict_proba(["fine warm keen"]).shape == (1, 2)


def test_true_labels_teach_an_update_where_there_are_no_weak_ones(
    kept: Lab, tmp_path: Path
) -> None:
    first = compare(kept, tmp_path, weak_label="weak", methods=["naive"], seeds=1)
    record = compare(
        kept, tmp_path, old_model=str(first.directory), methods=["naive", "compatible"]
    )
    rows = record.rows
    assert rows["ceiling"].isna().all()
    assert rows["recovered"].isna().all()
    assert (rows["floor"] == rows["old_score"]).all()
    assert record.config["floor_name"] == "the old model"
    assert rows["agreement"].equals(rows["score"])  # with the labels that taught, which are true


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weak_label": "weak", "methods": ["compatible"]}, "needs an old model"),
        ({"old_model": "old", "label": None}, "with --label"),
        ({"old_model": "bag-of-words"}, "no classes of its own"),
        ({"old_model": "old,odd"}, "column"),
        ({"weak_label": "weak", "old_model": "old", "label": None}, "takes true labels"),
    ],
)
def test_what_cannot_be_compared_is_said(
    kept: Lab, tmp_path: Path, options: dict, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        compare(kept, tmp_path, **options)


def test_an_old_answer_that_is_missing_is_said(kept: Lab, tmp_path: Path) -> None:
    frame = notes()
    frame.loc[3, "old"] = None
    with pytest.raises(UserError, match="row 4"):
        compare(kept, tmp_path, frame, weak_label="weak", old_model="old")


def test_self_distillation_is_a_method_of_its_own(kept: Lab, tmp_path: Path) -> None:
    record = compare(
        kept, tmp_path, weak_label="weak", methods=["naive", "self-distillation"], epochs=6
    )
    losses = record.rows.groupby("method")["weak_loss"].mean()
    assert losses["self-distillation"] != losses["naive"]
    again = compare(
        kept, tmp_path, weak_label="weak", methods=["naive", "self-distillation"], epochs=6
    )
    assert again.rows.equals(record.rows)


def test_targets_have_the_columns_that_losses_read() -> None:
    weak = np.array([[[0.9, 0.1], [0.3, 0.7]]], np.float32)
    loss, targets = METHODS["self-distillation"].lesson(weak, epochs=3)
    np.testing.assert_array_equal(targets[0, :, 2], [0, 1])
    assert loss.soften.epochs == 3
    teachers = (weak[..., ::-1], weak)
    _, targets = METHODS["compatible"].lesson(weak, epochs=3, teachers=teachers)
    np.testing.assert_allclose(targets[0, 0], [0.9, 0.1, 0.1, 0.9, 0.9, 0.1])
    assert METHODS["naive"].lesson(weak, epochs=3)[1].shape == (1, 2, 2)


def test_the_command_line_takes_an_old_model(generality, tmp_path: Path) -> None:
    notes().to_csv(tmp_path / "notes.csv", index=False)
    answer = generality(
        "compare", "notes.csv", "--label", "label", "--old-model", "old", "--model",
        "bag-of-words", "--seeds", 2, "--epochs", 2, "--methods", "naive,compatible", "--json",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    assert "negative_flips" in answer.out
    refused = generality("compare", "notes.csv", "--domain", "old", "--old-model", "old")
    assert refused.code == 2
    assert "--old-model does not go with domains" in refused.err
