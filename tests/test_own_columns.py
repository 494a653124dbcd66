"""`compare` and `predict` on a table whose columns have names of their own."""

from __future__ import annotations

import csv
import random

import pytest
from typer.testing import CliRunner

from generality.cli.app import app

GOOD, BAD = ("fine lovely superb warm clever moving", "dull weak awful slow silly tired")


@pytest.fixture
def reviews(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GENERALITY_HOME", str(tmp_path / "home"))
    rng = random.Random(0)
    with open("reviews.csv", "w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["review", "truth", "guess"])
        for row in range(240):
            names = ("pos", "neg") if row % 2 else ("neg", "pos")
            words = rng.choices((GOOD if row % 2 else BAD).split(), k=4)
            rows.writerow([" ".join(words), names[0], names[rng.random() < 0.25]])
    return "reviews.csv"


def test_no_column_need_be_called_text(reviews, tmp_path):
    options = "--text review --label truth --weak-label guess --model bag-of-words --seeds 2"
    answer = CliRunner().invoke(app, ["compare", reviews, *options.split(), "--methods", "naive"])
    assert answer.exit_code == 0, (answer.output, answer.exception)
    [best] = tmp_path.glob("runs/compare/*/best")

    answer = CliRunner().invoke(app, ["predict", str(best), reviews, "-o", "out.csv"])
    assert answer.exit_code == 0, (answer.output, answer.exception)
    with open("out.csv", newline="", encoding="utf-8") as file:
        predicted = list(csv.DictReader(file))
    right = sum(row["prediction"] == row["truth"] for row in predicted)
    assert (len(predicted), right > 220) == (240, True)
