import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks
from torch import nn

from generality.estimators import GradientBoostedHead, GradientBoostedHeadRegressor
from generality.estimators.gradient_boosted_head import (
    MAX_STEP,
    fit_units,
    mean_loss,
    pseudo_residuals,
    step_length,
)
from generality.measures import truncation_curve
from generality.modules import TruncatableMLP

SMALL = {"total_units": 8, "max_iter": 15, "learning_rate": 1.0, "subsample": 1.0}


@parametrize_with_checks([GradientBoostedHead(**SMALL), GradientBoostedHeadRegressor(**SMALL)])
def test_it_is_a_scikit_learn_estimator(estimator, check) -> None:
    check(estimator)


def test_two_classes_start_residuals_and_step() -> None:
    """Parity numbers computed by hand from the paper's equations."""
    y = np.array([[1.0], [1.0], [1.0], [-1.0]])
    F = np.full((4, 1), 0.5 * np.log((1 + y.mean()) / (1 - y.mean())))
    assert F[0, 0] == pytest.approx(0.549306, abs=1e-6)
    residuals = pseudo_residuals("binary", y, F)
    np.testing.assert_allclose(residuals[:, 0], [0.5, 0.5, 0.5, -1.5], atol=1e-12)
    f = np.array([[0.5], [0.2], [0.4], [-1.2]])
    assert step_length("binary", y, F, f) == pytest.approx(1.657848, abs=1e-6)


def test_three_classes_step() -> None:
    Y = np.eye(3)[[0, 1, 2, 1]]
    f = np.array([[0.5, -0.2, -0.3], [-0.3, 0.6, -0.3], [-0.2, -0.2, 0.4], [-0.1, 0.2, -0.1]])
    assert step_length("multiclass", Y, np.zeros((4, 3)), f) == pytest.approx(6.270492, abs=1e-6)


def test_a_step_along_nothing_is_none_and_a_long_one_is_cut() -> None:
    y = np.array([[1.0], [-1.0]])
    assert step_length("binary", y, np.zeros((2, 1)), np.zeros((2, 1))) == 0.0
    assert step_length("multiclass", np.eye(2), np.zeros((2, 2)), np.zeros((2, 2))) == 0.0
    assert step_length("binary", y, 0 * y, 0.01 * y) == MAX_STEP  # Newton would go 100


@given(st.sampled_from(["squared", "binary", "multiclass"]), st.integers(0, 50))
@settings(max_examples=30, deadline=None)
def test_pseudo_residuals_are_the_gradient(loss, seed) -> None:
    rng = np.random.default_rng(seed)
    K = 3 if loss == "multiclass" else 1
    targets = {
        "squared": rng.normal(size=(5, 1)),
        "binary": rng.choice([-1.0, 1.0], size=(5, 1)),
        "multiclass": np.eye(3)[rng.integers(3, size=5)],
    }[loss]
    F, way = rng.normal(size=(5, K)), rng.normal(size=(5, K))
    ahead, behind = (mean_loss(loss, targets, F + e * way) for e in (1e-5, -1e-5))
    slope = -(pseudo_residuals(loss, targets, F) * way).sum() / 5
    assert (ahead - behind) / 2e-5 == pytest.approx(slope, abs=1e-7)


def test_the_units_fit_as_scikit_learn_fits_them() -> None:
    """Same penalty and optimiser: from one start, the optimum of the same objective."""
    X = StandardScaler().fit_transform(load_diabetes().data)
    y = X[:, 2] + np.sin(X[:, 3])
    W, b, V, c = fit_units(
        X, y[:, None], 2, alpha=1.0, max_iter=500, random_state=np.random.RandomState(0)
    )
    ours = expit(X @ W + b) @ V[:, 0] + c
    theirs = MLPRegressor(
        hidden_layer_sizes=(2,), activation="logistic", solver="lbfgs", alpha=1.0, max_iter=500,
        tol=0, random_state=0,
    ).fit(X, y)  # fmt: skip

    def objective(said, weights) -> float:
        return ((y - said) ** 2).mean() / 2 + sum((w**2).sum() for w in weights) / (2 * len(y))

    assert objective(ours, (W, V)) == pytest.approx(
        objective(theirs.predict(X), theirs.coefs_), rel=0.01
    )


def test_the_units_fitted_by_torch_are_those_by_numpy() -> None:
    X = np.random.default_rng(0).normal(size=(50, 3))
    targets = np.stack([X[:, 0], X[:, 1] ** 2], 1)
    options = {"alpha": 1e-2, "max_iter": 20}
    both = [
        fit_units(X, targets, 2, random_state=np.random.RandomState(0), device=device, **options)
        for device in (None, "cpu")
    ]
    for numpy, tensor in zip(*both, strict=True):
        np.testing.assert_allclose(numpy, tensor, atol=1e-6)


@pytest.mark.parametrize("load", [load_breast_cancer, load_digits])
def test_the_merged_network_is_the_sum_of_its_steps(load) -> None:
    """Exact at every length: losses were measured on the additive model while it was fitted."""
    X, y = load(return_X_y=True)
    X, y = X[:300], y[:300]
    head = GradientBoostedHead(total_units=12, units_per_step=2, learning_rate=0.5, max_iter=20)
    head.fit(X, y)
    assert (np.diff(head.losses_) < 0).all()
    network = head.to_torch()
    inputs = torch.as_tensor(X)
    stages = zip(head.losses_, head.staged_predict_proba(X), strict=True)
    for stage, (loss, probabilities) in enumerate(stages):
        network.active_units = 2 * stage
        outputs = network(inputs)
        merged = outputs.softmax(1)
        if len(head.classes_) == 2:
            merged = torch.cat([1 - outputs.sigmoid(), outputs.sigmoid()], 1)
        np.testing.assert_allclose(merged.detach(), probabilities, atol=1e-12)
        truth = probabilities[np.arange(len(y)), y]
        assert -np.log(truth).mean() == pytest.approx(loss, abs=1e-11)
    assert network.active_units == network.units
    np.testing.assert_array_equal(list(head.staged_predict(X))[-1], head.predict(X))


def test_a_perfect_step_leaves_no_residual() -> None:
    """Two examples, four sigmoids and no penalty: fitted exactly in one step."""
    X, y = np.array([[-1.0], [1.0]]), np.array([3.0, 5.0])
    head = GradientBoostedHeadRegressor(
        total_units=4, units_per_step=4, learning_rate=1.0, subsample=1.0, alpha=0.0
    ).fit(X, y)
    np.testing.assert_allclose(head.predict(X), y, atol=1e-6)
    assert head.to_torch()(torch.as_tensor(X))[:, 0].tolist() == pytest.approx(y, abs=1e-6)


def test_it_is_reproducible_and_the_subsample_follows_the_seed() -> None:
    X, y = load_breast_cancer(return_X_y=True)
    fit = [
        GradientBoostedHead(total_units=3, max_iter=5, random_state=s).fit(X, y) for s in (0, 0, 1)
    ]
    np.testing.assert_array_equal(fit[0].output_weights_, fit[1].output_weights_)
    assert (fit[0].output_weights_ != fit[2].output_weights_).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"units_per_step": 3, "total_units": 10}, "no multiple"),
        ({"subsample": 0.0}, "share"),
    ],
)
def test_settings_that_make_no_sense(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        GradientBoostedHead(**options).fit([[0.0], [1.0]], [0, 1])


# ------------------------------------------------------------------------- truncation


def mlp(seed: int = 0) -> tuple[nn.Linear, nn.Linear]:
    torch.manual_seed(seed)
    return nn.Linear(5, 6), nn.Linear(6, 3)


@given(st.permutations(range(6)), st.integers(0, 6))
@settings(max_examples=25, deadline=None)
def test_units_left_out_are_replaced_by_their_means(order, kept) -> None:
    hidden, output = mlp()
    x = torch.randn(7, 5, generator=torch.Generator().manual_seed(1))
    activations = hidden(x).sigmoid()
    means = activations.mean(0)
    network = TruncatableMLP.from_mlp(hidden, output, order=order, means=means)
    network.active_units = kept
    replaced = activations.clone()
    replaced[:, list(order[kept:])] = means[list(order[kept:])]
    torch.testing.assert_close(network(x), output(replaced), atol=1e-5, rtol=1e-5)


def test_it_loads_into_a_plain_sequential_and_back() -> None:
    network = TruncatableMLP(*mlp())
    plain = nn.Sequential(nn.Linear(5, 6), nn.Sigmoid(), nn.Linear(6, 3))
    plain.load_state_dict({k: v for k, v in network.state_dict().items() if k[0].isdigit()})
    x = torch.ones(2, 5)
    torch.testing.assert_close(plain(x), network(x))
    copy = TruncatableMLP(*mlp(1))
    copy.load_state_dict(network.state_dict())
    copy.active_units = network.active_units = 3
    torch.testing.assert_close(copy(x), network(x))


def test_a_slice_of_it_is_a_plain_sequential() -> None:
    network, x = TruncatableMLP(*mlp()), torch.ones(2, 5)
    torch.testing.assert_close(network[:2](x), network[0](x).sigmoid())
    torch.testing.assert_close(network[2](network[:-1](x)), network(x))


def test_units_come_in_whole_stages() -> None:
    network = TruncatableMLP(*mlp(), partial_biases=torch.zeros(4, 3))
    network.active_units = 4
    for count in (3, 8, -2):
        with pytest.raises(ValueError, match="multiple of 2"):
            network.active_units = count
    with pytest.raises(ValueError, match="stages"):
        TruncatableMLP(*mlp(), partial_biases=torch.zeros(5, 3))
    with pytest.raises(ValueError, match="once"):
        TruncatableMLP.from_mlp(*mlp(), order=[0, 0, 1, 2, 3, 4])


def test_the_curve_is_the_metric_at_each_length_and_leaves_the_model_alone() -> None:
    X, y = load_digits(return_X_y=True)
    head = GradientBoostedHead(total_units=20, units_per_step=2, learning_rate=0.5, max_iter=20)
    head.fit(X[:500], y[:500])
    network = head.to_torch()
    network.active_units = 6
    curve = truncation_curve(network, X[500:800], y[500:800], (0.0, 0.25, 1.0))
    assert network.active_units == 6
    staged = [(p == y[500:800]).mean() for p in head.staged_predict(X[500:800])]
    assert [(p.units, p.value) for p in curve] == [(0, staged[0]), (4, staged[2]), (20, staged[10])]
    with pytest.raises(ValueError, match="shares"):
        truncation_curve(network, X, y, (1.5,))


def test_stages_in_another_order_are_the_same_sum() -> None:
    network = TruncatableMLP(*mlp(), partial_biases=torch.randn(4, 3)).double()
    other = network.reordered([2, 0, 1])
    x = torch.ones(1, 5, dtype=torch.float64)
    torch.testing.assert_close(other(x), network(x))
    network.active_units, other.active_units = 2, 4
    without = network(x) - network.partial_biases[0]  # the stage that comes second over there
    first = network.reordered([2, 1, 0])
    first.active_units = 2
    torch.testing.assert_close(other(x), first(x) + without)


def test_a_network_of_scikit_learn_comes_over() -> None:
    X, y = load_digits(return_X_y=True)
    model = MLPClassifier((12,), activation="logistic", max_iter=20, random_state=0)
    model.fit(X[:300], y[:300])
    network = TruncatableMLP.from_sklearn(model, order=range(12)[::-1])
    probabilities = network(torch.as_tensor(X[300:400])).softmax(1).detach()
    np.testing.assert_allclose(probabilities, model.predict_proba(X[300:400]), atol=1e-12)
    model.activation = "relu"
    with pytest.raises(ValueError, match="logistic"):
        TruncatableMLP.from_sklearn(model, order=range(12))
