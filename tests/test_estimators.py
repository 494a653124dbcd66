import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from generality.estimators import SoftProbe, WeakToStrong, bootstrap_chain
from generality.objectives import ConfidenceLoss


@parametrize_with_checks([SoftProbe()])
def test_soft_probe_is_a_scikit_learn_classifier(estimator, check) -> None:
    check(estimator)


def world(n: int = 900, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Ten features of equal worth and some noise; the first three alone are a weak view."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 10))
    return X, (X.sum(1) + rng.normal(size=n) > 0).astype(int)


def test_a_rate_too_coarse_for_soft_labels_is_said() -> None:
    X = np.random.default_rng(0).normal(size=(400, 200))
    soft = np.full((400, 2), 0.5) + 0.05 * np.sign(X[:, :1]) * np.array([-1, 1])
    with pytest.warns(ConvergenceWarning, match=r"above the 0\.693 it began with"):
        coarse = SoftProbe(learning_rate=1e-2).fit(X, soft).predict(X)
    fine = SoftProbe(learning_rate=3e-4).fit(X, soft).predict(X)
    assert (coarse == soft.argmax(1)).mean() < 0.8 < (fine == soft.argmax(1)).mean()


def test_soft_probe_matches_torch() -> None:
    X, y = world(64)
    soft = np.where(y[:, None] == 1, [[0.2, 0.8]], [[0.7, 0.3]])
    probe = SoftProbe(learning_rate=0.02, epochs=3, batch_size=64, weight_decay=0.1).fit(X, soft)

    features = torch.tensor((X - X.mean(0)) / X.std(0), dtype=torch.float32)
    head = torch.nn.Linear(10, 2, bias=False)
    torch.nn.init.zeros_(head.weight)
    optimiser = torch.optim.AdamW(head.parameters(), lr=0.02, weight_decay=0.1)
    for _ in range(3):  # the batch is everything, so order does not matter
        loss = torch.nn.functional.cross_entropy(head(features), torch.tensor(soft).float())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    np.testing.assert_allclose(probe.coef_, head.weight.detach().numpy(), atol=1e-5)
    np.testing.assert_allclose(
        probe.predict_proba(X), head(features).softmax(-1).detach().numpy(), atol=1e-5
    )


def test_hard_labels_are_soft_targets_of_certainty() -> None:
    X, y = world(200)
    hard = SoftProbe().fit(X, np.array(["no", "yes"])[y])
    soft = SoftProbe().fit(X, np.eye(2)[y])
    np.testing.assert_array_equal(hard.predict_proba(X), soft.predict_proba(X))
    assert hard.predict(X[:1])[0] in ("no", "yes")
    assert soft.classes_.tolist() == [0, 1]


def test_soft_probe_learns_a_bias_only_when_asked() -> None:
    X, _ = world(300)
    skewed = np.tile([[0.9, 0.1]], (300, 1))
    assert SoftProbe().fit(X, skewed).predict_proba(X).mean(0)[0] == pytest.approx(0.5, abs=0.1)
    biased = SoftProbe(fit_intercept=True, epochs=40).fit(X, skewed)
    assert biased.predict_proba(X).mean(0)[0] == pytest.approx(0.9, abs=0.02)


def test_soft_probe_uses_its_objective_and_its_seed() -> None:
    X, y = world(200)
    weak = np.where(y[:, None] == 1, [[0.4, 0.6]], [[0.6, 0.4]])
    naive = SoftProbe(random_state=0).fit(X, weak).predict_proba(X)
    sure = SoftProbe(objective=ConfidenceLoss(0.75)).fit(X, weak).predict_proba(X)
    assert sure.max(1).mean() > naive.max(1).mean() + 0.05
    other = SoftProbe(random_state=1).fit(X, weak).predict_proba(X)
    assert not np.array_equal(naive, other)


@pytest.mark.parametrize("soft", [[[0.5, 0.6]] * 4, [[-0.1, 1.1]] * 4])
def test_soft_probe_refuses_what_is_no_distribution(soft: list[list[float]]) -> None:
    with pytest.raises(ValueError, match="sum to 1"):
        SoftProbe().fit(np.ones((4, 2)), soft)


def thirds(*columns: np.ndarray) -> list:
    n = len(columns[0]) // 3
    return [tuple(c[i * n : (i + 1) * n] for c in columns) for i in range(3)]


def test_weak_to_strong_by_its_parts() -> None:
    X, y = world()
    (gt, transfer, test), (y_gt, y_transfer, y_test) = thirds(X[:, :3], X), thirds(y)
    protocol = WeakToStrong(SoftProbe(), SoftProbe())
    rows = protocol.run(gt, y_gt[0], transfer, y_transfer[0], test, y_test[0], seeds=range(3))
    assert [(row["method"], row["seed"]) for row in rows[:4]] == [
        ("weak", 0), ("student", 0), ("ceiling", 0), ("weak", 1),
    ]  # fmt: skip

    weak = SoftProbe(random_state=1).fit(gt[0], y_gt[0])
    student = SoftProbe(random_state=1).fit(transfer[1], weak.predict_proba(transfer[0]))
    ceiling = SoftProbe(random_state=1).fit(transfer[1], y_transfer[0])
    row = rows[4]
    assert row["score"] == student.score(test[1], y_test[0])
    assert row["floor"] == weak.score(test[0], y_test[0])
    assert row["ceiling"] == ceiling.score(test[1], y_test[0])
    assert row["labels"] == "soft"
    wrong = weak.predict(test[0]) != y_test[0]
    same = student.predict(test[1]) == weak.predict(test[0])
    assert row["agreement"] == same.mean()
    assert row["copied_errors"] == same[wrong].mean()
    assert rows[3]["score"] == rows[3]["floor"]
    assert rows[3]["agreement"] == 1
    assert all(row["floor"] < row["ceiling"] - 0.1 for row in rows)


def test_a_student_without_soft_targets_gets_hard_ones() -> None:
    X, y = world()
    (gt, transfer, test), labels = thirds(X), thirds(np.array(["no", "yes"])[y])
    with pytest.warns(UserWarning, match="LogisticRegression takes no soft targets"):
        protocol = WeakToStrong(SoftProbe(), LogisticRegression())
    arguments = [gt[0], labels[0][0], transfer[0], labels[1][0], test[0], labels[2][0]]
    rows = protocol.run(*arguments, seeds=[0])
    assert rows[1]["labels"] == "hard"
    assert rows[1]["score"] > 0.7
    pipeline = make_pipeline(StandardScaler(), SoftProbe())
    assert WeakToStrong(LogisticRegression(), pipeline).run(*arguments, seeds=[0])[1]["labels"] == (
        "soft"
    )
    with pytest.raises(ValueError, match="no parameter 'objective'"):
        WeakToStrong(SoftProbe(), LogisticRegression(), objective=ConfidenceLoss(), soft=False)


def test_the_objective_is_the_students_alone() -> None:
    X, y = world()
    (gt, transfer, test), labels = thirds(X[:, :3], X), thirds(y)
    arguments = [gt, labels[0][0], transfer, labels[1][0], test, labels[2][0]]
    plain = WeakToStrong(SoftProbe(), SoftProbe()).run(*arguments, seeds=[0])
    sure = WeakToStrong(SoftProbe(), SoftProbe(), objective=ConfidenceLoss(1.0, warmup=0)).run(
        *arguments, seeds=[0]
    )
    assert plain[2] == sure[2]
    assert plain[1] != sure[1]


def test_labels_of_the_supervisors_own_examples_are_warned_of() -> None:
    X, y = world(60)
    with pytest.warns(UserWarning, match="60 of 60 transfer examples"):
        WeakToStrong(SoftProbe(), SoftProbe()).run(X, y, X, y, X, y, seeds=[0])
    with pytest.raises(ValueError, match="y_gt has no example of 2"):
        WeakToStrong(SoftProbe(), SoftProbe()).run(X, y, X, y + 1, X, y, seeds=[0])


def test_bootstrap_chain_passes_labels_on() -> None:
    X, y = world(300)
    first = np.where(y[:, None] == 1, [[0.3, 0.7]], [[0.7, 0.3]])
    chain = bootstrap_chain(
        [SoftProbe(), LogisticRegression(), SoftProbe()], [X[:, :5], X, X], first
    )
    one = SoftProbe().fit(X[:, :5], first)
    two = LogisticRegression().fit(X, one.predict(X[:, :5]))
    three = SoftProbe().fit(X, two.predict_proba(X))
    np.testing.assert_array_equal(chain[2].predict_proba(X), three.predict_proba(X))
    with pytest.raises(ValueError, match="2 models, but 1 matrices"):
        bootstrap_chain([SoftProbe(), SoftProbe()], [X], first)
    with pytest.raises(ValueError, match="labels for 299"):
        bootstrap_chain([SoftProbe()], X, first[1:])
