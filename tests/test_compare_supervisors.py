"""Ensembles of weak labels, and labels handed up through intermediate models."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from datasets import Dataset
from typer.testing import CliRunner

from generality.cli.app import app
from generality.compare import compare_weak_labels
from generality.compare.bootstrap import Bootstrap
from generality.compare.label_sources import class_names
from generality.compare.methods import applicable
from generality.compare.students import Recipe, make_students
from generality.compare.weakly_labelled import weakly_labelled
from generality.errors import UserError
from generality.lab import Lab
from generality.objectives import soft_cross_entropy
from test_compare import reviews


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(home=tmp_path_factory.mktemp("steps"), device="cpu", progress=False)


def annotated(n: int = 240) -> pd.DataFrame:
    """Reviews with three annotators, each wrong in a quarter of the rows of its own."""
    frame = reviews(n)
    rng = np.random.default_rng(1)
    for name in ("ann", "bob", "cy"):
        other = np.where(frame["label"] == "pos", "neg", "pos")
        frame[name] = np.where(rng.random(n) < 0.25, other, frame["label"])
    return frame


def table(frame: pd.DataFrame) -> Dataset:
    return Dataset.from_pandas(frame, preserve_index=False)


def read(frame: pd.DataFrame, lab: Lab, **sources):
    options = {"weak_label": None, "weak_probabilities": None, "weak_model": None, **sources}
    return weakly_labelled(
        table(frame), text="review", label="label", max_length=32, lab=lab, **options
    )


def test_columns_are_averaged_and_their_diversity_is_told(lab: Lab) -> None:
    frame = annotated()
    found = read(frame, lab, weak_label="ann,bob,cy")
    votes = np.mean([frame[name] == "pos" for name in ("ann", "bob", "cy")], axis=0)
    np.testing.assert_allclose(found.weak[:, 1], votes, atol=1e-6)
    assert found.soft
    right = (found.weak.argmax(1) == found.truth).mean()
    assert right > max((frame[name] == frame["label"]).mean() for name in ("ann", "bob", "cy"))
    assert found.notes[0].startswith("The weak labels average 3 sources (ann, bob, cy); two of")
    assert f"their average in {right:.3f}" in found.notes[1]
    copies = read(frame.assign(again=frame["ann"]), lab, weak_label=["ann", "again"])
    assert "in 0% of the rows" in copies.notes[0]
    assert "correlate by 1.00" in copies.notes[1]


def test_one_column_is_as_before_even_with_a_comma_in_its_name(lab: Lab) -> None:
    frame = annotated().rename(columns={"ann": "yes,no"})
    found = read(frame, lab, weak_label="yes,no")
    assert not found.soft
    assert not any("average" in note for note in found.notes)
    with pytest.raises(UserError, match="There is no column 'dee'"):
        read(frame, lab, weak_label="bob,dee")
    assert class_names(Dataset.from_dict({"a": ["x", "y"], "b": ["z", "x"]}), ["a", "b"]) == [
        "x", "y", "z",
    ]  # fmt: skip


def test_two_weak_models_are_averaged_and_learn_from_no_row_that_is_kept(lab: Lab) -> None:
    frame = annotated(160)
    alone = read(frame, lab, weak_model="bag-of-words")
    other = str(saved_classifier(lab))
    both = read(frame, lab, weak_model=["bag-of-words", other])
    assert len(both.texts) == len(alone.texts) == 80
    only = read(frame, lab, weak_model=other)
    place = {text: row for row, text in enumerate(only.texts)}
    judged = np.stack([only.weak[place[text]] for text in both.texts])
    np.testing.assert_allclose(both.weak, (alone.weak + judged) / 2, atol=1e-6)


def saved_classifier(lab: Lab) -> Path:
    record = compare_weak_labels(
        table(annotated(120)), text="review", label="label", weak_label="bob", methods=["naive"],
        model="bag-of-words", seeds=1, lab=lab, root=lab.steps.root.parent / "runs",
    )  # fmt: skip
    return record.directory / "best"


def test_bootstrapping_teaches_the_student_by_the_intermediate_models_labels(lab: Lab) -> None:
    texts = annotated(60)["review"].tolist()
    rows, recipe = np.arange(40)[None], Recipe("bag-of-words")
    weak = np.random.default_rng(0).dirichlet([1, 1], size=(1, 40)).astype(np.float32)
    between = Bootstrap(lab, texts, recipe, ["bag-of-words", "bag-of-words"])
    student = make_students(lab, texts, recipe, 2)
    once = student.predict(soft_cross_entropy, rows, weak, rows)
    twice = student.predict(soft_cross_entropy, rows, once, rows)
    np.testing.assert_allclose(between.labels(rows, weak), twice, atol=1e-6)
    np.testing.assert_array_equal(Bootstrap(lab, texts, recipe, []).labels(rows, weak), weak)


def test_bootstrapping_runs_only_where_there_is_a_model_to_go_through() -> None:
    assert "bootstrapped" not in applicable(None, soft=True)[0]
    assert "bootstrapped" in applicable(None, soft=True, via=True)[0]
    with pytest.raises(UserError, match="name it with --via"):
        applicable(["bootstrapped"], soft=True)


def test_from_several_annotators_through_a_model_to_predictions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GENERALITY_HOME", str(tmp_path / "home"))
    annotated().to_csv(tmp_path / "reviews.csv", index=False)
    said = CliRunner().invoke(
        app,
        ["compare", str(tmp_path / "reviews.csv"), "--text", "review", "--label", "label",
         "--weak-label", "ann,bob", "--weak-label", "cy", "--via", "bag-of-words",
         "--model", "bag-of-words", "--methods", "naive,bootstrapped", "--seeds", "2",
         "--out", str(tmp_path / "runs"), "--json"],
    )  # fmt: skip
    assert said.exit_code == 0, said.output
    [run] = (tmp_path / "runs" / "compare").iterdir()
    rows = pd.read_parquet(run / "rows.parquet")
    assert sorted(rows["method"].unique()) == ["bootstrapped", "naive"]
    assert (rows["score"] > 0.5).all()
    predicted = CliRunner().invoke(
        app, ["predict", str(run / "best"), str(tmp_path / "reviews.csv"), "--json"]
    )
    assert predicted.exit_code == 0, predicted.output
