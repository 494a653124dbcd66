"""Data and training procedures that several studies could share: small checks of each."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.neural_network import MLPClassifier

from generality.benchmarks.feature_tables import divided, feature_table
from generality.benchmarks.shifted_digits import shifted_digits
from generality.benchmarks.shifted_texts import coded_lists
from generality.errors import UserError
from generality.experiments.cut_networks import boosted_and_cut, joint_and_cut, linear_score
from generality.experiments.preference_ladder import preferred
from generality.experiments.rare_class_ladder import rare_class_ladder
from generality.measures import random_push
from generality.models import sklearn_mlp
from generality.modules.digit_spaces import CellSpace, GridSpace
from generality.selection.styled_pools import ChainPools, FilePools
from generality.selection.training_files import read_preferences
from generality.training.shrinking_sampler import ShrinkingSampler


@pytest.mark.parametrize("activation", ["relu", "logistic", "tanh"])
def test_a_network_of_scikit_learn_says_the_same_as_a_module(activation: str) -> None:
    x = np.random.default_rng(0).normal(size=(60, 4))
    y = np.digitize(x[:, 0], [-0.5, 0.5])
    fitted = MLPClassifier((6, 5), activation=activation, solver="lbfgs", random_state=0).fit(x, y)
    said = sklearn_mlp(fitted, dtype=torch.float64)(torch.tensor(x)).softmax(-1)
    np.testing.assert_allclose(said.detach(), fitted.predict_proba(x), atol=1e-12)


def test_pools_hold_right_answers_and_no_tested_prompt(tmp_path: Path) -> None:
    source = ChainPools(steps=2, test=30)
    pool = source.pool(seed=0, count=40)
    tested = {prompt for prompts, _ in source.tests.values() for prompt in prompts}
    assert not tested & set(pool.column("prompt"))
    assert set(pool.column("correct")) == {1.0}
    assert not tested & set(source.pretraining(100, (0.2,) * 5)[0])
    rows = [
        {"prompt": f"{n} + 1?", "response": str(n + 1 + wrong), "source": who, "reference": n + 1}
        for n in range(4)
        for who, wrong in (("right", 0), ("wrong", 1))
    ]
    (tmp_path / "pool.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "test.jsonl").write_text('{"prompt": "2 + 2?", "answer": "4"}\n')
    files = FilePools(tmp_path)
    assert files.pool(seed=0, count=2).composition() == {"right": 1.0}
    assert len(files.pool(seed=0, count=2)) == 2
    (tmp_path / "test.jsonl").write_text('{"prompt": "2 + 2?"}\n')
    with pytest.raises(UserError, match="needs prompt and answer"):
        FilePools(tmp_path)


def test_a_file_of_preferences_names_three_columns(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"prompt": "p", "chosen": "a", "rejected": "b"}\n{"prompt": "p"}\n')
    with pytest.raises(UserError, match="record 2: needs prompt, chosen and rejected"):
        read_preferences(path)
    swapped = preferred(np.array([("p", "a", "b")], dtype=object), np.array([False]))
    assert swapped.tolist() == [["p", "b", "a"]]


def test_a_random_push_costs_what_it_is_told_and_nothing_for_nothing() -> None:
    rng = np.random.default_rng(0)
    said = rng.dirichlet([1, 1], size=200)
    right = said.argmax(1) == rng.integers(2, size=200)
    features = rng.normal(size=(200, 6))
    for tax in (0, 1, 7):
        pushed = random_push(said, features, right, tax, seed=1)
        assert (right & ~pushed).sum() == tax
    assert (random_push(said, features, right, 0) == right).all()


def test_longer_and_diluted_lists_keep_the_code_of_the_first_word() -> None:
    lists = coded_lists({f"words{chr(97 + i)}": i for i in range(26)}, train=30, test=30, words=20)
    code = {text.split()[0]: y for text, y in zip(*lists.train, strict=True)}
    for group in lists.tests.values():
        for text, y in zip(*group, strict=True):
            assert code.get(text.split()[0], y) == y


def test_cut_networks_lose_and_whole_ones_beat_chance() -> None:
    parts = divided(*feature_table("diabetes"), regression=True, seed=1)
    boosted = boosted_and_cut(parts, units=6, units_per_step=2, kept=(0.0, 1.0), max_iter=10)
    joint = joint_and_cut(parts, units=6, solver="lbfgs", max_iter=30, kept=(0.0, 1.0))
    assert boosted["in_order"][1] == boosted["whole"] > 0.2
    assert joint["zeros"][1] == joint["means"][1] == joint["whole"]
    assert joint["means"][0] < joint["whole"]
    assert linear_score(parts) > 0.3
    with pytest.raises(UserError, match="friedman1"):
        feature_table("friedman")


def test_the_ladder_of_a_rare_class_has_one_test_set() -> None:
    rng = np.random.default_rng(0)
    y = (rng.random(120) < 0.3).astype(int)
    texts = [("bad" if label else "good") + f" w{rng.integers(5)}" for label in y]
    x = (y[:, None] + rng.normal(size=(120, 3))).astype(np.float32)
    said = rare_class_ladder(texts, x, y, supervised=30, transfer=40, test=30, epochs=3)
    truth = said.pop("truth")
    assert {found.shape for found in said.values()} == {(30, 2)}
    assert (said["floor"].argmax(1) == truth).all()
    assert not said["constant"].argmax(1).any()


@pytest.mark.parametrize("space", [CellSpace(4, nodes=2), GridSpace((2, 4), (2, 1))])
def test_a_space_trains_what_its_mixture_follows(space) -> None:
    x = torch.rand(3, 1, 8, 8)
    mixture = space.mixture("softmax")
    for architecture in (space.by_hand(), *space.random(2, seed=0), space.decoded(mixture)):
        space.follow(mixture, architecture)
        assert mixture(x).shape == (3, 10)
        lists = json.loads(json.dumps(architecture))
        assert space.network(lists)(x).shape == (3, 10)
    assert space.random(2, seed=0) == space.random(2, seed=0) != space.random(2, seed=1)


def test_what_spaces_have_in_common_and_how_digits_are_scored() -> None:
    first, second = (ShrinkingSampler([["a", "b"]] * 2, members=1) for _ in range(2))
    first.combos[0] = [("b",)]
    assert ShrinkingSampler.common([first, second]).combos == [[("b",)], [("a",), ("b",)]]
    data = shifted_digits("uci", pixels=8, train=5, held=0, test=20, seed=0)
    zero = data.accuracies(lambda x: torch.eye(10)[:1].expand(len(x), -1))
    share = float((data.test[1] == 0).float().mean())
    assert zero == pytest.approx({"score": share, "shifted": share})
