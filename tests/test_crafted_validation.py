"""Validation on crafted shifts: the numbers by hand, folds over categories, who chooses well."""

import numpy as np
import pandas as pd
import pytest

from generality.benchmarks import image_bank, table_bank, text_bank
from generality.lab.schedules import learning_rate_factor
from generality.measures import augmented_validation, kfold_by_category, selection_report

SPACE = [{"lr": rate} for rate in (1e-4, 1e-3, 1e-2, 1e-1)]


def test_categories_count_alike_and_only_those_asked_for() -> None:
    texts, labels = ["good film", "bad film"] * 5, np.array([1, 0] * 5)

    def shouted(texts: list[str]) -> np.ndarray:
        return np.array([text.startswith("good") for text in texts]).astype(int)

    table = augmented_validation(shouted, texts, labels, text_bank(), categories=["first half"])
    assert table.values.tolist() == [["first half", 1.0]]
    whole = augmented_validation(shouted, texts, labels, text_bank())
    assert whole["category"].tolist() == list(text_bank().names)
    case = whole.set_index("category")["accuracy"]["case"]
    changed = text_bank().craft(texts, "case")
    assert case == pytest.approx(np.mean(shouted(changed) == labels))


def test_probabilities_and_classes_give_the_same() -> None:
    X = np.random.default_rng(0).normal(size=(50, 3))
    y = (X[:, 0] > 0).astype(int)
    hard = augmented_validation(lambda X: (X[:, 0] > 0).astype(int), X, y, table_bank(X))
    soft = augmented_validation(
        lambda X: np.stack([X[:, 0] <= 0, X[:, 0] > 0], 1).astype(float), X, y, table_bank(X)
    )
    pd.testing.assert_frame_equal(hard, soft)


def test_nothing_to_validate_on_is_said() -> None:
    with pytest.raises(ValueError, match="0 inputs and 0 labels"):
        augmented_validation(lambda texts: [], [], np.zeros(0, int), text_bank())


def test_no_setting_is_measured_on_what_it_was_trained_with() -> None:
    seen = []

    def evaluate(setting, trained, measured):
        seen.append((setting["lr"], trained, measured))
        return dict.fromkeys(measured, 0.5 if setting["lr"] == 1e-2 else 0.4)

    best, table = kfold_by_category(SPACE, evaluate, image_bank())
    assert best == {"lr": 1e-2}
    assert len(seen) == 8
    for _, trained, measured in seen:
        assert not set(trained) & set(measured)
        assert set(trained) | set(measured) == set(image_bank().names)
    assert list(table.columns) == ["lr", *image_bank().names, "score"]


def test_the_middle_of_the_best_and_the_mean_over_categories() -> None:
    def evaluate(setting, trained, measured):
        return {name: 1.0 if name == "blur" else 0.0 for name in measured}

    best, table = kfold_by_category(SPACE[:3], evaluate, image_bank())
    assert best == SPACE[1]
    assert table["score"].tolist() == pytest.approx([0.1] * 3)
    with pytest.raises(ValueError, match="no accuracy was given for weather"):
        kfold_by_category(
            SPACE, lambda s, t, m: {n: 1.0 for n in m if n != "weather"}, image_bank()
        )


def test_selection_by_hand() -> None:
    table = pd.DataFrame(
        {"V_S": [0.97, 0.98, 0.97], "V_A": [0.5, 0.4, 0.6], "test": [0.55, 0.35, 0.60]}
    )
    plain, crafted = selection_report(table, ["V_S", "V_A"], "test")
    assert (plain.score, crafted.score) == (0.35, 0.60)
    assert (plain.recovered, crafted.recovered) == (0.0, 1.0)
    assert crafted.gain == pytest.approx(0.60 / 0.35 - 1)
    assert plain.rank_correlation == pytest.approx(-0.866, abs=1e-3)
    assert crafted.rank_correlation == 1
    assert np.isinf(plain.high)


def test_cells_choose_apart_and_regret_has_an_interval_over_seeds() -> None:
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        [
            {"seed": seed, "net": net, "v": quality + 10 * net, "w": 0.5, "score": quality}
            for seed in range(4)
            for net in range(2)
            for quality in rng.random(6)
        ]
    )
    within, flat = selection_report(table, ["v", "w"], within=["seed", "net"])
    assert (within.regret, within.rank_correlation, within.cells) == (0, 1, 8)
    assert flat.regret > 0
    assert flat.low < flat.regret < flat.high < 1
    assert np.isnan(flat.rank_correlation)
    pooled = selection_report(table, ["v"])[0]
    assert pooled.rank_correlation < 0.9  # between networks, not within
    with pytest.raises(ValueError, match="lacks u"):
        selection_report(table, ["u"])


def test_the_papers_learning_rate_falls_to_a_hundredth() -> None:
    assert learning_rate_factor("exponential", 1, 300) == pytest.approx(0.984767, abs=1e-6)
    assert learning_rate_factor("exponential", 300, 300) == pytest.approx(0.01)
