"""Progressive self-distillation: the table, the targets, the loss in every loop; calibration."""

import functools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from generality.lab import Lab, TrainConfig
from generality.lab.fit import fit
from generality.measures import (
    aurc,
    brier,
    ece,
    excess_aurc,
    nll,
    risk_coverage,
    temperature_scale,
)
from generality.modules import EmaTaught, EmaTaughtLoss
from generality.objectives import (
    PastPredictionTable,
    ProgressiveTargets,
    SelfDistillation,
    gradient_rescale,
    indexed,
    progressive_targets,
    soft_cross_entropy,
)

Y = nn.functional.one_hot(torch.arange(6) % 3, 3).float()


def test_the_weight_of_the_past_grows_as_in_the_paper() -> None:
    soften = ProgressiveTargets(0.8, epochs=300)
    weights = [soften.weight(epoch) for epoch in (0, 1, 149, 299)]
    assert weights == pytest.approx([0.0026667, 0.0053333, 0.4, 0.8], abs=1e-7)
    assert ProgressiveTargets(0.8, epochs=3, schedule="constant").weight(0) == 0.8
    assert ProgressiveTargets(0.8, epochs=2, schedule=lambda x: x * x).weight(0) == 0.2
    for wrong in ({"alpha": 1.1}, {"epochs": 0}, {"schedule": "cubic"}):
        with pytest.raises(ValueError, match="alpha|schedule"):
            ProgressiveTargets(**{"alpha": 0.5, "epochs": 2, **wrong})


def test_targets_loss_and_gradient_by_hand() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0]], requires_grad=True)
    past, label = torch.tensor([[0.5, 0.3, 0.2]]), torch.tensor([[1.0, 0.0, 0.0]])
    target = progressive_targets(label, past, 0.4)
    assert target.tolist()[0] == pytest.approx([0.80, 0.12, 0.08])
    loss = soft_cross_entropy(logits, target)
    assert loss.item() == pytest.approx(0.687606, abs=1e-6)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient[0].tolist() == pytest.approx([-0.134759, 0.124728, 0.010031], abs=1e-6)
    hard = logits.softmax(-1) - label
    ratio = gradient_rescale(logits.softmax(-1), past, 0.4, torch.tensor([0]))
    assert ratio.item() == pytest.approx(0.402555, abs=1e-6)
    assert (gradient.abs().sum() / hard.abs().sum()).item() == pytest.approx(ratio.item(), abs=1e-6)


def test_last_epoch_is_read_until_this_one_is_committed() -> None:
    table = PastPredictionTable(items=4, classes=2)
    index, labels = torch.tensor([0, 1]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert table.lookup(index, labels).equal(labels)
    with pytest.raises(ValueError, match="give their labels"):
        table.lookup(index)
    table.stage(index, torch.tensor([[0.25, 0.75], [0.5, 0.5]]))
    assert table.lookup(index, labels).equal(labels)  # also for an example that comes twice
    table.stage(torch.tensor([1]), torch.tensor([[0.0, 1.0]]))  # the last note wins
    table.commit()
    assert table.lookup(index).tolist() == [[0.25, 0.75], [0.0, 1.0]]
    table.commit()  # an epoch that reached none of them
    assert table.lookup(index).tolist() == [[0.25, 0.75], [0.0, 1.0]]
    with pytest.raises(ValueError, match="outside"):
        table.stage(torch.tensor([4]), torch.tensor([[0.5, 0.5]]))
    with pytest.raises(ValueError, match="outside"):
        table.lookup(torch.tensor([-1]))
    with pytest.raises(ValueError, match="that `indexed` adds"):
        SelfDistillation(2, 2, epochs=2)(torch.zeros(2, 2), torch.eye(2), 0.0)
    with pytest.raises(ValueError, match="are not"):
        table.stage(torch.tensor([0]), torch.tensor([[0.5, 0.3, 0.2]]))


@given(st.integers(1, 5), st.integers(0, 100))
def test_the_largest_probabilities_survive(topk: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    said = torch.rand(3, 5, generator=generator).softmax(-1)
    table = PastPredictionTable(items=3, classes=5, topk=topk)
    table.stage(torch.arange(3), said)
    table.commit()
    found = table.lookup(torch.arange(3))
    assert found.sum(-1).tolist() == pytest.approx([1, 1, 1], abs=1e-6)
    kept = said.topk(topk).indices
    torch.testing.assert_close(found.gather(-1, kept), said.gather(-1, kept), atol=1e-3, rtol=0)


def test_a_table_is_saved_in_the_middle_of_an_epoch_and_mapped_from_disk(tmp_path: Path) -> None:
    table = PastPredictionTable(items=3, classes=2, topk=1, path=tmp_path / "table")
    table.stage(torch.arange(3), torch.tensor([[0.75, 0.25]] * 3))
    table.commit()
    table.stage(torch.tensor([1]), torch.tensor([[0.125, 0.875]]))
    other = PastPredictionTable(items=3, classes=2, topk=1)
    other.load_state_dict(table.state_dict())
    for each in (table, other):
        each.commit()
        assert each.lookup(torch.arange(3)).tolist() == [[0.75, 0.25], [0.125, 0.875], [0.75, 0.25]]
    assert {file.name for file in (tmp_path / "table").iterdir()} == {
        "past.bin", "past_at.bin", "staged.bin", "staged_at.bin",
    }  # fmt: skip


def test_processes_gather_what_they_stage() -> None:
    torch.distributed.init_process_group(
        "gloo", store=torch.distributed.HashStore(), rank=0, world_size=1
    )
    try:
        table = PastPredictionTable(items=3, classes=2)
        table.stage(torch.tensor([2]), torch.tensor([[0.25, 0.75]]))
        table.commit()
    finally:
        torch.distributed.destroy_process_group()
    assert table.lookup(torch.tensor([2])).tolist() == [[0.25, 0.75]]


def linear(seed: int) -> nn.Module:
    return nn.Linear(4, 3)


def problem() -> tuple[np.ndarray, torch.Tensor]:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 3, 40)
    inputs = generator.normal(size=(40, 4)) + np.eye(3, 4)[labels]
    return inputs.astype(np.float32), torch.eye(3)[labels]


CONFIG = TrainConfig(epochs=4, batch_size=8, learning_rate=0.05, schedule="constant")


def test_without_the_past_it_is_the_baseline_bit_for_bit() -> None:
    x, y = problem()
    options = {"network": linear, "inputs": x, "config": CONFIG, "seed": 0, "predict": {"x": x}}
    plain = fit(targets=y, objective=soft_cross_entropy, **options)
    loss = SelfDistillation(40, 3, epochs=4, alpha=0.0)
    same = fit(targets=indexed(y), objective=loss, **options)
    assert (plain["probabilities"]["x"] == same["probabilities"]["x"]).all()
    softened = fit(
        targets=indexed(y), objective=SelfDistillation(40, 3, epochs=4, alpha=0.8), **options
    )
    assert softened["losses"][:5] == plain["losses"][:5]  # in epoch 0 the past is the label itself
    assert (plain["probabilities"]["x"] != softened["probabilities"]["x"]).any()


def test_the_loss_takes_the_steps_of_the_loop_in_the_paper() -> None:
    x, y = problem()
    loss = SelfDistillation(40, 3, epochs=4, alpha=0.8)
    found = fit(
        network=linear, inputs=x, targets=indexed(y), objective=loss, config=CONFIG, seed=0,
        predict={"x": x},
    )["losses"]  # fmt: skip
    torch.manual_seed(0)
    network, inputs = nn.Linear(4, 3), torch.from_numpy(x)
    optimizer, order = (
        torch.optim.Adam(network.parameters(), 0.05),
        torch.Generator().manual_seed(0),
    )
    past, expected = y.clone(), []  # the released code: one table, read and written over
    for epoch in range(4):
        alpha = 0.8 * (epoch + 1) / 4
        for rows in torch.randperm(40, generator=order).split(8):
            logits = network(inputs[rows])
            target = (1 - alpha) * y[rows] + alpha * past[rows]
            value = -(target * logits.log_softmax(-1)).sum(-1).mean()
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            past[rows] = logits.softmax(-1).detach()
            expected.append(value.item())
    assert found == pytest.approx(expected, abs=1e-5)


def test_a_killed_training_goes_on_with_its_table(tmp_path: Path) -> None:
    x, y = problem()
    options = {
        "network": linear, "inputs": x, "targets": indexed(y), "config": CONFIG, "seed": 0,
        "objective": SelfDistillation(40, 3, epochs=4), "predict": {"x": x},
    }  # fmt: skip
    whole = fit(**options)

    def stop(done: int, total: int, report: dict) -> None:
        if done == 12:
            raise KeyboardInterrupt

    import generality.lab.train as loop

    every = functools.partial(loop.train, checkpoint_every=0.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("generality.lab.fit.train", every)
        with pytest.raises(KeyboardInterrupt):
            fit(**options, checkpoint=tmp_path / "part", progress=stop)
        resumed = fit(**options, checkpoint=tmp_path / "part")
    assert resumed["losses"] == pytest.approx(whole["losses"], abs=1e-6)


def test_a_lab_keeps_it_and_an_objective_is_not_changed_by_use(tmp_path: Path) -> None:
    x, y = problem()
    loss = SelfDistillation(40, 3, epochs=4)
    lab = Lab(home=tmp_path, device="cpu", progress=False)
    for _ in range(2):
        lab.fit(
            linear, x, indexed(y).numpy(), objective=loss, config=CONFIG, seed=0, predict={"x": x}
        )
    assert (lab.steps.computed, lab.steps.reused) == (1, 1)
    assert not loss.table.past_known.any()


def test_the_teacher_is_an_average_of_weights() -> None:
    network = nn.Linear(2, 3)
    taught = EmaTaught(network, decay=0.75).train()
    first = network.weight.detach().clone()
    taught(torch.zeros(1, 2))
    with torch.no_grad():
        network.weight.add_(1.0)
    outputs = taught(torch.ones(1, 2))
    torch.testing.assert_close(taught.teacher.weight, 0.75 * first + 0.25 * (first + 1))
    torch.testing.assert_close(outputs[:, 3:], taught.teacher(torch.ones(1, 2)).softmax(-1))
    loss = EmaTaughtLoss(epochs=2, alpha=0.8)(outputs, torch.tensor([[1.0, 0, 0]]), 0.5)
    loss.backward()
    assert network.weight.grad is not None
    assert taught.teacher.weight.grad is None
    target = 0.2 * torch.tensor([1.0, 0, 0]) + 0.8 * outputs[0, 3:]
    assert loss.item() == pytest.approx(-(target * outputs[0, :3].log_softmax(-1)).sum().item())


# ------------------------------------------------------------------------- calibration

SURE = [0.95, 0.9, 0.8, 0.65, 0.55]
RIGHT = [1, 1, 0, 1, 0]
TABLE = [[each, 1 - each] for each in SURE]
TRUTH = [1 - right for right in RIGHT]


def test_ranking_of_errors_as_the_paper_computes_it() -> None:
    assert 1000 * aurc(TABLE, TRUTH) == pytest.approx(196.6667, abs=1e-4)
    assert 1000 * excess_aurc(TABLE, TRUTH) == pytest.approx(66.6667, abs=1e-4)
    assert 100 * ece(TABLE, TRUTH, binning="width") == pytest.approx(37.0)
    assert risk_coverage(TABLE, TRUTH)[-1] == pytest.approx(0.4)
    assert excess_aurc(TABLE, [0, 0, 0, 1, 1]) == pytest.approx(0, abs=1e-12)
    with pytest.raises(ValueError, match="do not fit"):
        aurc(TABLE, [0])


def test_examples_of_equal_confidence_may_come_in_any_order() -> None:
    table, truth = np.array([[0.8, 0.2]] * 4 + [[0.6, 0.4]]), np.array([0, 1, 0, 0, 1])
    for order in ([0, 1, 2, 3, 4], [1, 0, 4, 3, 2]):
        assert aurc(table[order], truth[order]) == pytest.approx((4 * 0.25 + 0.4) / 5)


@given(st.integers(0, 1000))
def test_proper_scores_and_the_best_temperature(seed: int) -> None:
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(30, 3))
    truth = generator.integers(0, 3, 30)
    said = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert 0 <= brier(said, truth) <= 2
    hot = temperature_scale(logits, truth)
    scaled = np.exp(logits / hot) / np.exp(logits / hot).sum(1, keepdims=True)
    assert nll(scaled, truth) <= nll(said, truth) + 1e-6
    assert excess_aurc(said, truth) >= -1e-12
