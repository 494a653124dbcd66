"""Small networks on inputs in memory: the loop's steps, kept, and what may go wrong."""

import functools
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from generality.lab import Lab, TrainConfig
from generality.lab.fit import fit, predict_proba


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(home=tmp_path / "steps", device="cpu", progress=False)


def data(n: int = 50) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, n)
    images = rng.normal(size=(n, 2, 6, 6)) + labels[:, None, None, None]
    return images.astype(np.float32), labels


def small_net(seed: int, width: int = 4) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.Flatten(),
        nn.Linear(width * 16, 3),
    )  # fmt: skip


SGD = TrainConfig(
    epochs=3, batch_size=16, learning_rate=0.05, optimizer="sgd", momentum=0.9, weight_decay=0.01,
    dropout=True,
)  # fmt: skip


def test_it_takes_the_steps_of_a_plain_loop(lab: Lab) -> None:
    """SGD with momentum and L2, cosine to zero, batch norms in train mode, eval for predictions."""
    images, labels = data()
    found = lab.fit(
        small_net, images, labels, config=SGD, seed=1, predict={"all": images}, keep_weights=True
    )
    torch.manual_seed(1)
    model, x, y = small_net(1), torch.from_numpy(images), torch.from_numpy(labels)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 12)
    order = torch.Generator().manual_seed(1)
    for _ in range(3):
        for rows in torch.randperm(50, generator=order).split(16):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
            schedule.step()
    expected = model.eval()(x).softmax(-1).detach().numpy()
    np.testing.assert_allclose(found.probabilities["all"], expected, atol=1e-5)
    assert len(found.losses) == 12
    again = small_net(0)
    again.load_state_dict(found.weights)
    np.testing.assert_array_equal(predict_proba(again, images), found.probabilities["all"])


class Counts(nn.Module):
    """A loss that remembers how many examples of each domain it has seen."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(2))

    def forward(self, logits: Tensor, targets: Tensor, progress: float, domains: Tensor) -> Tensor:
        self.seen += torch.bincount(domains, minlength=2)
        return nn.functional.cross_entropy(logits, targets) * (1 + self.seen[1])


def test_what_a_loss_remembers_ends_with_the_training() -> None:
    images, labels = data()
    loss = Counts()
    options = {
        "network": small_net, "inputs": images, "targets": labels, "config": SGD, "seed": 0,
        "objective": loss, "domains": np.arange(50) % 2, "predict": {},
    }  # fmt: skip
    first, second = fit(**options), fit(**options)
    assert first["losses"] == second["losses"]
    assert not loss.seen.any()


def test_it_is_kept_and_a_changed_network_is_another(lab: Lab) -> None:
    images, labels = data()
    ask = functools.partial(
        lab.fit, inputs=images, targets=labels, config=SGD, seed=0, predict={"all": images[:5]}
    )
    first = ask(small_net)
    again = ask(small_net)
    np.testing.assert_array_equal(first.probabilities["all"], again.probabilities["all"])
    assert (lab.steps.computed, lab.steps.reused) == (1, 1)
    assert not list((lab.steps.root / "partial").glob("*")), "checkpoints are cleared"
    wider = ask(functools.partial(small_net, width=5))
    assert lab.steps.computed == 2
    assert np.abs(wider.probabilities["all"] - first.probabilities["all"]).max() > 1e-4
    assert wider.weights == {}


def brightened(batch: Tensor, generator: torch.Generator) -> Tensor:
    return batch + torch.randn(len(batch), 1, 1, 1, generator=generator)


def test_batches_are_augmented_from_the_seed(lab: Lab, tmp_path: Path) -> None:
    images, labels = data()
    ask = {"config": SGD, "seed": 0, "predict": {"all": images}}
    plain, noisy = (
        lab.fit(small_net, images, labels, augment=hook, **ask) for hook in (None, brightened)
    )
    other = Lab(home=tmp_path / "other", device="cpu", progress=False)
    torch.manual_seed(7)  # what the caller's generator holds does not matter
    again = other.fit(small_net, images, labels, augment=brightened, **ask)
    assert np.abs(plain.probabilities["all"] - noisy.probabilities["all"]).max() > 1e-3
    np.testing.assert_array_equal(noisy.probabilities["all"], again.probabilities["all"])


def first_domain_only(
    logits: Tensor, targets: Tensor, progress: float, *, domains: Tensor
) -> Tensor:
    each = nn.functional.cross_entropy(logits, targets, reduction="none")
    return (each * (domains == 0)).sum() / (domains == 0).sum().clamp(min=1)


def test_an_objective_sees_the_domains(lab: Lab) -> None:
    """The second domain's labels are wrong and the objective skips them."""
    images, labels = data(200)
    domains = np.arange(200) % 2
    wrong = np.where(domains == 0, labels, (labels + 1) % 3)
    ask = {"config": SGD, "seed": 0, "predict": {"all": images}}
    skips = lab.fit(small_net, images, wrong, objective=first_domain_only, domains=domains, **ask)
    fooled = lab.fit(small_net, images, wrong, **ask)
    right = [(each.probabilities["all"].argmax(1) == labels).mean() for each in (skips, fooled)]
    assert right[0] > 0.9
    assert right[1] < 0.8


class Decayless(nn.Linear):
    def no_weight_decay(self) -> list[str]:
        return ["weight"]


def zero_loss(logits: Tensor, targets: Tensor, progress: float) -> Tensor:
    return 0 * logits.sum()


def test_named_parameters_do_not_decay(lab: Lab) -> None:
    images, labels = data()
    config = TrainConfig(epochs=1, optimizer="sgd", learning_rate=0.5, weight_decay=0.1)
    found = lab.fit(
        lambda seed: Decayless(72, 3), images.reshape(50, -1), labels, config=config, seed=0,
        predict={}, objective=zero_loss, keep_weights=True,
    )  # fmt: skip
    torch.manual_seed(0)
    start = Decayless(72, 3)
    torch.testing.assert_close(found.weights["weight"], start.weight.data)
    assert (found.weights["bias"].abs() < start.bias.abs()).all()


def test_bad_input_is_said(lab: Lab) -> None:
    images, labels = data()
    ask = {"config": SGD, "seed": 0, "predict": {}}
    with pytest.raises(ValueError, match="must be as many"):
        lab.fit(small_net, images, labels[:-1], **ask)
    with pytest.raises(ValueError, match="3 classes"):
        lab.fit(small_net, images, labels + 1, **ask)
    with pytest.raises(ValueError, match="momentum"):
        TrainConfig(momentum=0.9)
