"""Parts that studies of shifts share: budgets, choices made elsewhere, sites, streams, moments."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from generality.agents.choice_cases import known_and_asked
from generality.benchmarks import (
    MultiDomain,
    leave_out,
    load_images,
    read_sites,
    slab_features,
    split_sites,
    spurious_2d,
    stack_domains,
)
from generality.claims import Row
from generality.errors import UserError
from generality.estimators.feature_ids import logistic_ids, nearest_mean_ids
from generality.experiments import follow_streams
from generality.measures import chosen_elsewhere
from generality.measures.invariance import (
    Moments,
    feature_subsets,
    jeffreys_rate,
    kept_violations,
    subset_of,
)
from generality.models import Featurized, MultiHead
from generality.models.named_networks import image_network, named_network
from generality.selection import enough_for, mixup_examples, real_and_made


@given(st.integers(1, 30), st.integers(0, 30), st.integers(0, 40))
def test_real_examples_come_first_and_made_ones_fill_up(real: int, made: int, total: int) -> None:
    rows = real_and_made(real, made, total)
    assert len(rows) == total
    counts = np.bincount(rows, minlength=real + made)
    if made:
        assert (rows < real).sum() == min(real, total)
    assert counts[:real].max(initial=0) - counts[:real].min(initial=total) <= 1


@given(st.integers(1, 200), st.lists(st.integers(1, 9), min_size=1, max_size=3))
def test_the_first_domains_are_enough_alone(total: int, domains: list[int]) -> None:
    wanted = enough_for(total, domains)
    assert len(wanted) == max(domains)
    assert all(sum(wanted[:count]) >= total for count in domains)


def test_mixup_stays_between_its_two_examples() -> None:
    x, y = mixup_examples(np.arange(6.0)[:, None], np.eye(6), np.random.default_rng(0), alpha=1.0)
    np.testing.assert_allclose(x[:, 0], y @ np.arange(6), atol=1e-6)
    assert (x != np.arange(6.0)[:, None]).any()


def rows_of(scores: dict[str, list[float]], ratio: float) -> list[Row]:
    return [
        Row(method="m", network=name, ratio=ratio, seed=seed, score=score, floor=None)
        for name, own in scores.items()
        for seed, score in enumerate(own)
    ]


def test_a_choice_never_sees_the_seed_it_is_scored_on() -> None:
    here = rows_of({"a": [1.0, 0.0, 0.0], "b": [0.5, 0.5, 0.5]}, 0.0)
    there = rows_of({"a": [0.9, 0.9, 0.9], "b": [0.1, 0.1, 0.1]}, 1.0)
    found = pd.DataFrame(chosen_elsewhere([*here, *there]))
    first = found[(found["ratio"] == 0) & (found["seed"] == 0)].set_index("network")["score"]
    assert first.to_dict() == {
        "best elsewhere": 0.5, "second elsewhere": 1.0, "best at another ratio": 1.0,
    }  # fmt: skip
    assert list(chosen_elsewhere(here[:3])) == [], "one network leaves nothing to choose"
    assert list(chosen_elsewhere([])) == []


def test_mixtures_come_in_parts() -> None:
    training, unlabelled, _, apart = spurious_2d(0.0).parts(40, 30, 20, seed=1)
    assert [len(each[1]) for each in (training, unlabelled, apart)] == [40, 30, 40]
    agree = [((x[:, 1] < 0) == (y == 1)).mean() for x, y in (training, unlabelled, apart)]
    assert agree == [1.0, 0.0, 0.5]


def test_named_networks_start_alike_for_a_seed_of_torch_and_have_heads() -> None:
    assert isinstance(named_network(0, name="linear", shape=(3,)), Featurized)
    assert isinstance(named_network(0, name="conv", shape=(1, 16, 16), heads=3), MultiHead)
    wide = named_network(0, name="mlp", shape=(2, 2), width=7, classes=5)
    assert [tuple(weight.shape) for weight in wide.parameters()] == [
        (7, 4), (7,), (7, 7), (7,), (5, 7), (5,),
    ]  # fmt: skip
    assert image_network(0, backbone="tiny", classes=4, width=2).head.in_features == 8


def test_sites_are_split_by_time_or_at_random(tmp_path: Path) -> None:
    table = pd.DataFrame({"date": [5, 1, 4, 2, 3], "site": list("ababa"), "text": "t", "label": 0})
    train, test = split_sites(table, "temporal", share=0.4)
    assert sorted(test["date"]) == [4, 5]
    assert sorted(train["date"]) == [1, 2, 3]
    splits = [split_sites(table, "random", share=0.4, drawn=0.7, seed=seed) for seed in range(5)]
    assert {(len(train), len(test)) for train, test in splits} == {(2, 2)}
    assert len({tuple(test.index) for _, test in splits}) > 1
    table.to_csv(tmp_path / "sites.csv")
    assert len(read_sites(str(tmp_path / "sites.csv"))) == 5
    table.assign(label=2).to_csv(tmp_path / "other.csv")
    with pytest.raises(UserError, match="needs text, label"):
        read_sites(str(tmp_path / "other.csv"))


def test_known_and_asked_share_no_case() -> None:
    data = MultiDomain(
        [f"{k}" for k in range(24)], np.arange(24) % 2, np.arange(24) // 12, ("a", "b"), ("x", "y")
    )
    known, asked = known_and_asked(data, 2, 3, seed=0)
    assert (len(known), len(asked)) == (2 * 4, 3 * 4)
    assert not set(known.inputs) & set(asked.inputs)


def test_stacked_domains_keep_their_rows() -> None:
    def domain(value: float, size: int) -> tuple[np.ndarray, np.ndarray]:
        return np.full((size, 1), value), np.full(size, int(value))

    data = [{"a": domain(seed, 2), "b": domain(seed + 10, 3)} for seed in range(2)]
    X, y, rows = stack_domains(data)
    for (seed, name), own in rows.items():
        np.testing.assert_array_equal(X[own], data[seed][name][0])
        np.testing.assert_array_equal(y[own], data[seed][name][1])
    assert sum(map(len, rows.values())) == len(X) == 10
    assert leave_out(("a", "b")) == [(("b",), ("a",)), (("a",), ("b",))]


def test_a_memory_told_the_truth_follows_where_a_frozen_one_cannot() -> None:
    rng = np.random.default_rng(0)

    def blobs(turned: bool, n: int) -> tuple[np.ndarray, np.ndarray]:
        y = np.arange(n) % 2
        centres = np.array([[1.0, 0.0], [0.0, 1.0]])[:: -1 if turned else 1]
        return (centres[y] + 0.1 * rng.normal(size=(n, 2))).astype(np.float32), y

    head = [np.eye(2, dtype=np.float32), np.zeros(2, dtype=np.float32)]
    setting: dict[str, Any] = {"k": 3, "temperature": 0.1, "threshold": 0.0}
    grid: dict[str, list[dict[str, Any]]] = {
        "knn-frozen": [setting],
        "knn-true-labels": [setting],
        "tent-prebn": [{"learning_rate": 1e-3, "params": "prebn"}],
    }
    found = follow_streams(blobs(False, 10), head, {"turned": blobs(True, 200)}, grid, batch=20)
    last = {method: curves[0]["turned"][2] for method, curves in found["curves"].items()}
    assert last["knn-true-labels"] > 0.9
    assert last["knn-frozen"] < 0.1
    assert found["floors"]["turned"] < 0.1
    assert found["ceilings"]["turned"] > 0.9


def test_plain_classifiers_name_the_labels_they_were_given() -> None:
    known = np.array([[1.0, 0.1], [0.9, 0.0], [0.0, 1.0], [0.1, 0.8]])
    labels = np.array([7, 7, 2, 2])
    seen = np.array([[5.0, 0.2], [0.1, 3.0]])
    for classify in (logistic_ids, nearest_mean_ids):
        assert classify(known, labels, seen).tolist() == [7, 2]


def test_slabs_of_all_seeds_keep_their_rotation() -> None:
    data = slab_features("linear", slabs={5: 2}, linear=1, train=50, test=30, seeds=(0, 1))
    for i in (0, 1):
        for x, y in ((data.inputs[i], data.labels[i]), (data.test_inputs[i], data.test_labels[i])):
            rotation = data.rotation(i)
            assert rotation is not None
            simple = (x @ rotation.T)[:, data.mask][:, 0]
            assert np.corrcoef(simple, y)[0, 1] > 0.8
    assert data.take([1]).inputs.shape == (1, 50, 3)


def test_moments_of_samples_subsets_and_rates() -> None:
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(3, 20, 4)), rng.normal(size=(3, 20))
    stacked = Moments.of_samples(X, y)
    flat = Moments.of(X.reshape(-1, 4), y.ravel(), np.repeat(np.arange(3), 20))
    np.testing.assert_allclose(stacked.features, flat.features)
    np.testing.assert_allclose(stacked.cross, flat.cross)
    assert stacked.first(2).target.shape == (2,)
    pairs = feature_subsets(stacked, max_size=2)[1]
    one = subset_of(stacked, pairs.features[3])
    np.testing.assert_allclose(one.weights[0], pairs.weights[3])
    np.testing.assert_allclose(one.residual[0], pairs.residual[3])
    rates = kept_violations([pairs], stacked, epsilon=float(np.median(pairs.residual)))
    assert rates["worst kept"] >= rates["typical kept"]
    assert 0 < jeffreys_rate(0.0, 100) < jeffreys_rate(0.01, 100)


def test_images_as_bytes_are_the_same_pixels(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    shades = np.arange(48, dtype=np.uint8).reshape(4, 4, 3) * 5
    image.fromarray(shades).save(tmp_path / "a.png")
    bytes_, floats = (load_images([tmp_path / "a.png"], 4, as_bytes=b) for b in (True, False))
    assert bytes_.dtype == np.uint8
    np.testing.assert_array_equal(bytes_[0].transpose(1, 2, 0), shades)
    np.testing.assert_allclose(floats, bytes_ / 255, atol=1e-6)
