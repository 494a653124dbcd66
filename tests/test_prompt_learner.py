"""Learning a prompt for class names from few examples, and how the examples are drawn."""

import numpy as np
import pytest

import tiny_models
from generality.benchmarks import FewShotTask
from generality.models import TwoTowers
from generality.training import MetaPlan, PromptSpace, learn_prompt, name_scores, tune_prompt

NAMES = ("dog", "cat", "horse", "owl")


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> PromptSpace:
    folder = tiny_models.clip(tmp_path_factory.mktemp("clip") / "model")
    return PromptSpace(folder, tokens=2, rank=4, rate=0.5)


def test_support_grows_with_shots_and_never_meets_the_test() -> None:
    labels = np.repeat(np.arange(4), 10)
    task = FewShotTask(np.zeros((40, 1)), labels, NAMES, base=(0, 2))
    one, test = task.draw(1, 0)
    four, same = task.draw(4, 0)
    assert set(one) < set(four), "few shots are among more"
    assert set(labels[four]) == {0, 2}
    np.testing.assert_array_equal(test, same)
    assert not set(four) & set(test)
    assert set(np.bincount(labels[test])) == {5}
    assert len(task.draw(9, 0)[0]) == 2 * 5, "half of a class is held out"
    assert len(task.draw(9, 0, most=3)[0]) == 2 * 3
    assert any(set(four) != set(task.draw(4, *other)[0]) for other in ((0, 1), (1, 0)))


def test_tuning_fits_the_support_and_leaves_other_episodes_alone(space: PromptSpace) -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(16) % 4
    items = np.eye(4, 12)[labels].astype(np.float32) + rng.normal(scale=0.1, size=(16, 12))
    items = items.astype(np.float32)
    start = learn_prompt(space, None, items, [], seed=0)
    support = np.array([[0, 2], [4, 6]])
    scores = tune_prompt(space, start, items, labels, NAMES, (0, 2), support, (1, 40))
    assert scores.shape == (2, 2, 16, 4)
    alone = tune_prompt(space, start, items, labels, NAMES, (0, 2), support[1:], (1, 40))
    np.testing.assert_allclose(scores[:, 1:], alone, atol=1e-3)

    def loss(logits: np.ndarray) -> float:
        own = logits[support[0]][:, [0, 2]] / 5  # at 20 times the cosine, as it is learnt
        return -np.log(np.exp(own).T / np.exp(own).sum(1))[[0, 1], [0, 1]].mean()

    assert loss(scores[1, 0]) < loss(scores[0, 0])


def test_learning_moves_what_it_is_asked_to(space: PromptSpace) -> None:
    words = [f"{animal} {place}" for animal in NAMES for place in ("sea", "hill", "wood") * 6]
    features = TwoTowers(space.encoder, device="cpu").encode_texts(words)
    plan = MetaPlan(levels=(2, 5), queries=2, steps=2)
    first = learn_prompt(space, None, features, [], seed=0)["tokens"]
    np.testing.assert_array_equal(first, learn_prompt(space, None, features, [], seed=0)["tokens"])
    assert not np.array_equal(first, learn_prompt(space, None, features, [], seed=1)["tokens"])
    kept = learn_prompt(space, plan, features, words, move_start=False, regulate=True, seed=0)
    np.testing.assert_array_equal(kept["tokens"], first)
    assert kept["regulator"]
    assert -1 <= kept["cosine"] <= 1
    moved = learn_prompt(space, plan, features, words, seed=0)
    assert moved["regulator"] is None
    assert not np.array_equal(moved["tokens"], first)


def test_names_alone_are_scored_as_clip_does(space: PromptSpace) -> None:
    towers = TwoTowers(space.encoder, device="cpu")
    items = towers.encode_texts(["a dog", "an owl"])
    expected = 100 * items @ towers.encode_texts(list(NAMES)).T
    np.testing.assert_allclose(name_scores(space, items, NAMES), expected, atol=1e-2)
