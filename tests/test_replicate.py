"""Training together equals training one by one with torch.optim."""

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR

from generality.lab.replicate import Replicas, replicate, soft_targets_loss
from generality.lab.schedules import learning_rate_factor
from generality.objectives import ConfidenceLoss, ProductLoss, soft_cross_entropy

WIDTH, CLASSES = 12, 3


def probe(seed):
    return nn.Linear(WIDTH, CLASSES)


def mlp(seed):
    return nn.Sequential(nn.Linear(WIDTH, 16), nn.GELU(), nn.LayerNorm(16), nn.Linear(16, CLASSES))


def problem(examples=75, seed=0):
    g = torch.Generator().manual_seed(seed)
    inputs = torch.randn(examples, WIDTH, generator=g)
    return inputs, torch.softmax(3 * torch.randn(examples, CLASSES, generator=g), -1)


def alone(
    make,
    inputs,
    targets,
    seed,
    rate,
    decay,
    *,
    loss,
    optimizer,
    schedule,
    epochs,
    batch,
    momentum=0.0,
):
    """One replica in a plain PyTorch loop; the schedules are written out again here."""
    torch.manual_seed(seed)
    model = make(seed)
    kind = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam, "sgd": torch.optim.SGD}[optimizer]
    extra = {"momentum": momentum} if optimizer == "sgd" else {}
    step_rule = kind(model.parameters(), lr=rate, weight_decay=decay, **extra)
    total = epochs * math.ceil(len(inputs) / batch)
    if schedule == "cosine":
        schedule_rule = CosineAnnealingLR(step_rule, total)
    elif schedule == "linear":
        schedule_rule = LambdaLR(step_rule, lambda step: 1 - step / total)
    else:
        schedule_rule = LambdaLR(step_rule, lambda step: 1.0)
    generator, step, losses = torch.Generator().manual_seed(seed), 0, []
    for _ in range(epochs):
        order, summed = torch.randperm(len(inputs), generator=generator), 0.0
        for rows in order.split(batch):
            value = loss(model(inputs[rows]), targets[rows], step / total)
            step_rule.zero_grad()
            value.backward()
            step_rule.step()
            schedule_rule.step()
            step, summed = step + 1, summed + value.item() * len(rows)
        losses.append(summed / len(inputs))
    return model, losses


@pytest.mark.parametrize("make", [probe, mlp])
@pytest.mark.parametrize(
    ("optimizer", "momentum"), [("adamw", 0.0), ("adam", 0.0), ("sgd", 0.0), ("sgd", 0.9)]
)
@pytest.mark.parametrize("schedule", ["constant", "cosine", "linear"])
def test_equals_one_at_a_time(make, optimizer, momentum, schedule):
    inputs, targets = problem()
    seeds, decays = [0, 1, 2, 1], [0.0, 0.01, 0.3, 0.1]
    rates = [0.001, 0.01, 0.003, 0.02]
    setting = {"optimizer": optimizer, "schedule": schedule, "epochs": 3, "momentum": momentum}
    together = replicate(
        make,
        inputs,
        targets,
        seeds=seeds,
        loss=soft_cross_entropy,
        learning_rate=rates,
        weight_decay=decays,
        batch_size=16,  # 75 examples: the last batch has 11
        **setting,
    )
    for i, (seed, rate, decay) in enumerate(zip(seeds, rates, decays, strict=True)):
        model, losses = alone(
            make, inputs, targets, seed, rate, decay, loss=soft_cross_entropy, batch=16, **setting
        )
        for name, weight in model.named_parameters():
            torch.testing.assert_close(together.parameters[name][i], weight, atol=1e-4, rtol=0)
        torch.testing.assert_close(together.losses[i], torch.tensor(losses), atol=1e-4, rtol=0)


@pytest.mark.parametrize("loss", [ConfidenceLoss(0.75), ConfidenceLoss(0.5, balance="none")])
@pytest.mark.parametrize("classes", [2, 3])
def test_confidence_loss_per_replica_targets_and_rows(loss, classes):
    g = torch.Generator().manual_seed(3)
    inputs = torch.randn(90, WIDTH, generator=g)
    targets = torch.softmax(2 * torch.randn(2, 50, classes, generator=g), -1)
    rows = torch.stack([torch.randperm(90, generator=g)[:50] for _ in range(2)])

    def make(seed):
        return nn.Linear(WIDTH, classes)

    together = replicate(
        make, inputs, targets, rows=rows, loss=loss, seeds=[5, 6], learning_rate=0.01, epochs=4
    )
    for i in range(2):
        model, _ = alone(
            make,
            inputs[rows[i]],
            targets[i],
            5 + i,
            0.01,
            0.0,
            loss=loss,
            optimizer="adamw",
            schedule="constant",
            epochs=4,
            batch=32,
        )
        torch.testing.assert_close(
            together.parameters["weight"][i], model.weight, atol=1e-4, rtol=0
        )


@settings(deadline=None, max_examples=25)
@given(
    examples=st.integers(1, 40),
    batch_size=st.integers(1, 50),
    seeds=st.lists(st.integers(0, 2**31), min_size=1, max_size=4),
)
def test_grouping_replicas_changes_nothing(examples, batch_size, seeds):
    inputs, targets = problem(examples)
    setting = {
        "seeds": seeds,
        "batch_size": batch_size,
        "epochs": 2,
        "loss": ProductLoss(),
        "warmup": 0.3,
    }
    at_once = replicate(probe, inputs, targets, **setting)
    in_turn = replicate(probe, inputs, targets, together=1, **setting)
    assert len(at_once) == len(in_turn) == len(seeds)
    for name in at_once.parameters:
        torch.testing.assert_close(
            at_once.parameters[name], in_turn.parameters[name], atol=1e-5, rtol=1e-4
        )


def test_one_module_is_the_same_start_for_all_and_is_left_alone():
    inputs, targets = problem()
    start = probe(0)
    before = start.weight.detach().clone()
    together = replicate(start, inputs, targets, seeds=[0, 1], learning_rate=0.0, epochs=1)
    assert torch.equal(together.parameters["weight"], before.expand(2, -1, -1))
    replicate(start, inputs, targets, seeds=[0, 1], learning_rate=0.1)
    assert torch.equal(start.weight, before)


def test_frozen_parameters_and_buffers():
    def make(seed):
        model = nn.Sequential(nn.Linear(WIDTH, 8), nn.BatchNorm1d(8), nn.Linear(8, CLASSES))
        model[0].requires_grad_(False)
        return model

    inputs, targets = problem(64)
    together = replicate(make, inputs, targets, seeds=[0, 1], learning_rate=0.1, epochs=2)
    for i in range(2):
        torch.manual_seed(i)
        start = make(i)
        module = together.module(i)
        assert torch.equal(module[0].weight, start[0].weight)
        assert not torch.equal(module[2].weight, start[2].weight)
        assert int(module[1].num_batches_tracked) == 4
        with torch.no_grad():
            expected = module.eval()(inputs)
        torch.testing.assert_close(together.logits(inputs)[i], expected, atol=1e-5, rtol=1e-4)


def test_predictions_chunks_and_state_survive_safetensors(tmp_path):
    from safetensors.torch import load_file, save_file

    inputs, targets = problem()
    together = replicate(mlp, inputs, targets, seeds=[0, 1, 2], epochs=2)
    save_file(together.state_dict(), tmp_path / "replicas.safetensors")
    again = Replicas.from_state(mlp(0), load_file(tmp_path / "replicas.safetensors"))
    assert len(again) == 3
    assert torch.equal(again.losses, together.losses)
    torch.testing.assert_close(again.logits(inputs, chunk=7), together.logits(inputs))
    torch.testing.assert_close(again.predict_proba(inputs).sum(-1), torch.ones(3, len(inputs)))


def test_read_only_memory_map_in_half_precision(tmp_path):
    inputs, targets = problem()
    np.save(tmp_path / "features.npy", inputs.numpy().astype(np.float16))
    mapped = np.load(tmp_path / "features.npy", mmap_mode="r")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        from_map = replicate(probe, mapped, targets.numpy(), seeds=[0, 1], epochs=2)
    from_memory = replicate(probe, inputs.half().float(), targets, seeds=[0, 1], epochs=2)
    assert torch.equal(from_map.parameters["weight"], from_memory.parameters["weight"])
    assert torch.equal(from_map.logits(mapped), from_memory.logits(inputs.half().float()))


def test_integer_inputs_train_an_embedding():
    ids = torch.randint(0, 20, (60, 5), generator=torch.Generator().manual_seed(0))
    targets = nn.functional.one_hot(ids[:, 0] % 2, 2).float()

    def make(seed):
        return nn.Sequential(nn.Embedding(20, 6), nn.Flatten(), nn.Linear(30, 2))

    together = replicate(make, ids, targets, seeds=[0, 1], learning_rate=0.05, epochs=20)
    assert (together.losses[:, -1] < 0.1 * together.losses[:, 0]).all()


def test_progress_is_the_share_of_steps_done_and_is_reported():
    inputs, targets = problem(40)
    seen, reported = [], []

    def loss(logits, soft, progress):
        seen.append(progress)
        return soft_targets_loss(logits, soft)

    replicate(
        probe,
        inputs,
        targets,
        seeds=[0, 1, 2],
        loss=loss,
        epochs=2,
        batch_size=20,
        together=2,
        progress=lambda done, total, numbers: reported.append((done, total, set(numbers))),
    )
    assert seen == [0.0, 0.25, 0.5, 0.75] * 2
    assert reported == [(done, 8, {"loss"}) for done in range(1, 9)]


def test_same_seeds_same_weights_and_the_callers_generator_is_untouched():
    inputs, targets = problem()

    def make(seed):
        return nn.Sequential(nn.Dropout(0.5), nn.Linear(WIDTH, CLASSES))

    state = torch.get_rng_state()
    first = replicate(make, inputs, targets, seeds=[3, 4], epochs=2)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(5)
    second = replicate(make, inputs, targets, seeds=[3, 4], epochs=2)
    assert torch.equal(first.parameters["1.weight"], second.parameters["1.weight"])


def test_a_diverged_replica_is_reported_and_does_not_spoil_the_others():
    inputs, targets = problem()
    setting = {"seeds": [0, 1], "optimizer": "sgd", "epochs": 3, "loss": soft_cross_entropy}
    with pytest.warns(UserWarning, match="1 of 2 replicas diverged"):
        mixed = replicate(probe, inputs, targets, learning_rate=[0.01, 1e38], **setting)
    fine = replicate(probe, inputs, targets, learning_rate=0.01, **setting)
    assert torch.equal(mixed.parameters["weight"][0], fine.parameters["weight"][0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds": []}, "seeds is empty"),
        ({"optimizer": "lion"}, "optimizer is"),
        ({"schedule": "step"}, "schedule is"),
        ({"epochs": 0}, "at least 1"),
        ({"learning_rate": [0.1, 0.2, 0.3]}, "learning_rate is one number"),
        ({"weight_decay": -1.0}, "weight_decay is one number"),
        ({"targets": torch.ones(3, 75, 2)}, "neither"),
        ({"rows": torch.arange(10)}, "same number"),
        ({"rows": torch.full((75,), 75)}, "rows must name"),
        ({"module": probe(0).requires_grad_(False)}, "nothing to train"),
    ],
)
def test_mistakes(change, message):
    inputs, targets = problem()
    arguments = {"module": probe, "inputs": inputs, "targets": targets, "seeds": [0, 1]} | change
    with pytest.raises(ValueError, match=message):
        replicate(**arguments)


@given(
    schedule=st.sampled_from(["constant", "cosine", "linear"]),
    total=st.integers(1, 200),
    warmup=st.floats(0, 0.99),
)
def test_schedules_stay_positive_rise_then_never_rise_again(schedule, total, warmup):
    factors = [learning_rate_factor(schedule, i, total, warmup=warmup) for i in range(total)]
    warm = int(warmup * total)
    assert all(0 < f <= 1 for f in factors)
    assert factors[warm] == 1
    assert factors[: warm + 1] == sorted(factors[: warm + 1])
    assert factors[warm:] == sorted(factors[warm:], reverse=True)
