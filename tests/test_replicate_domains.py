"""Training domains together equals training one by one with torch.optim, for every algorithm."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from generality.lab import Lab
from generality.lab.replicate_domains import DomainReplicas, replicate_domains
from generality.models import Featurized, TinyConvNet, mlp
from generality.objectives import ALGORITHMS, domain_penalty
from generality.objectives.domain_algorithms import Range

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from domainbed_algorithms import ERM, TWINS

WIDTH, CLASSES, STEPS, BATCH = 8, 3, 40, 10
SIZES = (7, 30, 45)  # one domain is smaller than a batch

HYPER = {
    "irm": {"weight": [10.0, 0.5, 3.0], "anneal": [0.3, 0.5, 2.0]},
    "vrex": {"weight": [10.0, 1.0, 3.0], "anneal": [0.3, 0.0, 0.71]},
    "group_dro": {"eta": [0.01, 0.1, 1.0]},
    "coral": {"weight": [1.0, 10.0, 0.1]},
    "mmd": {"weight": [1.0, 0.5, 0.1]},
    "mixup": {"alpha": [0.2, 1.0, 2.0]},
    "sd": {"weight": [0.1, 0.01, 0.0]},
    "fishr": {"weight": [100.0, 10.0, 1.0], "anneal": [0.25, 0.0, 0.5], "ema": [0.9, 0.95, 0.5]},
    "iga": {"weight": [1.0, 10.0, 0.1]},
    "clove": {"weight": [1.0, 10.0, 0.1]},
}
SEEDS, RATES, DECAYS = [0, 0, 3], [0.01, 0.003, 0.01], [0.0, 0.01, 0.1]


class Clove(ERM):
    """Not in DomainBed: pair by pair."""

    def update(self, minibatches):
        loss, penalty = 0.0, 0.0
        for x, y in minibatches:
            logits = self.predict(x)
            loss += nn.functional.cross_entropy(logits, y) / len(minibatches)
            r, chosen = logits.softmax(-1).max(-1)
            gap = (chosen == y).float() - r
            i, j = torch.cartesian_prod(torch.arange(len(y)), torch.arange(len(y))).T
            penalty += (gap[i] * gap[j] * torch.exp(-(r[i] - r[j]).abs() / 0.4)).mean()
        return self.step(loss + self.hparams["weight"] * penalty)


def network(seed):
    return Featurized(nn.Sequential(mlp(WIDTH, 6), nn.ReLU()), nn.Linear(6, CLASSES))


def problem(seed=0):
    g = torch.Generator().manual_seed(seed)
    inputs = torch.randn(120, WIDTH, generator=g)
    labels = (inputs[:, :CLASSES] + 0.5 * torch.randn(120, CLASSES, generator=g)).argmax(1)
    order = torch.randperm(120, generator=g)
    first = list(order[: sum(SIZES)].split(SIZES))
    second = list(order[-sum(SIZES) :].split(SIZES))
    return inputs, labels, [first, second, first]


def endless(rows, generator, batch, steps):
    """One domain's rows: permutations end to end, cut into batches."""
    found = []
    while len(found) < batch * steps:
        found += rows[torch.randperm(len(rows), generator=generator)].tolist()
    return [found[i * batch : (i + 1) * batch] for i in range(steps)]


def alone(name, inputs, labels, domains, seed, rate, decay, hyper, average_from=None, at=()):
    torch.manual_seed(seed)
    model = network(seed).to(inputs.dtype)
    hparams = {"lr": rate, "weight_decay": decay, **hyper}
    if "anneal" in hyper:
        hparams["anneal"] = math.ceil(hyper["anneal"] * STEPS - 1e-9)
    if name == "mixup":
        rng = np.random.default_rng(seed)
        hparams["draws"] = ALGORITHMS["mixup"].draws(rng, hyper, STEPS, len(domains))
    twin = {**TWINS, "clove": Clove, "swad": ERM}[name]
    algorithm = twin(model.featurizer, model.head, len(domains), hparams)
    generator = torch.Generator().manual_seed(seed)
    streams = [endless(rows, generator, BATCH, STEPS) for rows in domains]
    losses, kept, snapshots = [], [], {}
    for step in range(STEPS):
        rows = [stream[step] for stream in streams]
        losses.append(algorithm.update([(inputs[own], labels[own]) for own in rows])["loss"])
        if average_from is not None and step >= average_from * STEPS:
            kept.append({n: p.detach().clone() for n, p in model.named_parameters()})
        if step + 1 in at:
            snapshots[step + 1] = {n: p.detach().clone() for n, p in model.named_parameters()}
    weights = {n: p.detach() for n, p in model.named_parameters()}
    if kept:
        weights = {n: torch.stack([each[n] for each in kept]).mean(0) for n in weights}
    return weights, losses, snapshots


# The steepest of MMD's kernels makes 1e-8 into 1e-3 within 40 steps, on whichever side: in single
# precision nothing could be said about it.
@pytest.mark.parametrize(
    ("name", "dtype", "tolerance"),
    [(name, torch.float64, 1e-6) for name in sorted(ALGORITHMS)]
    + [(name, torch.float32, 1e-4) for name in ("irm", "group_dro", "fishr")],
)
def test_together_equals_alone(name, dtype, tolerance):
    inputs, labels, rows = problem()
    inputs, hyper = inputs.to(dtype), HYPER.get(name, {})
    together = replicate_domains(
        lambda seed: network(seed).to(dtype), inputs, labels, rows,
        algorithm=ALGORITHMS[name], seeds=SEEDS, learning_rate=RATES, weight_decay=DECAYS,
        hyper=hyper, steps=STEPS, per_domain=BATCH, checkpoints=[5, STEPS],
    )  # fmt: skip
    for r, seed in enumerate(SEEDS):
        own = {key: values[r] for key, values in hyper.items()}
        weights, losses, snapshots = alone(
            name, inputs, labels, rows[r], seed, RATES[r], DECAYS[r], own,
            average_from=ALGORITHMS[name].average_from, at=[5],
        )  # fmt: skip
        for key, weight in weights.items():
            found, at_five = together.parameters[key][r], together.at(5).parameters[key][r]
            torch.testing.assert_close(found, weight, atol=tolerance, rtol=0)
            torch.testing.assert_close(at_five, snapshots[5][key], atol=tolerance, rtol=0)
            assert torch.equal(together.at(STEPS).parameters[key][r], found)
        tenths = torch.tensor(losses).view(10, -1).mean(1)
        torch.testing.assert_close(together.losses[r], tenths, atol=1e-3, rtol=1e-3)


def test_settings_change_what_is_learnt():
    inputs, labels, rows = problem()
    for name, hyper in HYPER.items():
        nets = replicate_domains(
            network, inputs, labels, [rows[0]] * 2, algorithm=ALGORITHMS[name], seeds=[0, 0],
            hyper={key: values[:2] for key, values in hyper.items()}, steps=STEPS,
            per_domain=BATCH, learning_rate=0.01,
        )  # fmt: skip
        moved = (nets.parameters["head.weight"][0] - nets.parameters["head.weight"][1]).abs().max()
        assert moved > 1e-4, name


def test_parts_snapshots_and_memory_maps_make_no_difference(tmp_path):
    inputs, labels, rows = problem()
    np.save(tmp_path / "x.npy", inputs.numpy())
    options = {
        "algorithm": ALGORITHMS["fishr"], "seeds": SEEDS, "steps": 12, "per_domain": 5,
        "checkpoints": [3], "average_from": 0.5,
    }  # fmt: skip
    whole = replicate_domains(network, inputs, labels, rows, **options)
    mapped, seen = np.load(tmp_path / "x.npy", mmap_mode="r"), []
    parts = replicate_domains(
        network, mapped, labels.numpy(), [[r.numpy() for r in own] for own in rows],
        together=2, progress=lambda done, total, values: seen.append((done, total)), **options,
    )  # fmt: skip
    assert seen == [(i + 1, 24) for i in range(24)]
    again = DomainReplicas.from_state(network(0), parts.state_dict())
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], tensor, atol=1e-6, rtol=1e-5)
    with pytest.raises(ValueError, match="no snapshot after 4"):
        whole.at(4)


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_convolutions_with_batch_statistics_train_as_alone(norm):
    g = torch.Generator().manual_seed(0)
    images, labels = torch.rand(40, 1, 16, 16, generator=g), torch.arange(40) % 2
    rows = [[torch.arange(20), torch.arange(20, 40)]]

    def build(seed):
        return Featurized(TinyConvNet(1, width=4, norm=norm), nn.Linear(16, 2))

    both = replicate_domains(
        build, images, labels, rows * 2, algorithm=ALGORITHMS["erm"], seeds=[0, 1], steps=6,
        per_domain=8, optimizer="sgd", learning_rate=0.1,
    )  # fmt: skip
    for r, seed in enumerate((0, 1)):
        torch.manual_seed(seed)
        model = build(seed)
        twin = ERM(model.featurizer, model.head, 2, {"lr": 0.1})
        # Adam would blow up the rounding of gradients that are zero: of biases before a norm.
        twin.optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        generator = torch.Generator().manual_seed(seed)
        streams = [endless(own, generator, 8, 6) for own in rows[0]]
        for step in range(6):
            twin.update([(images[s[step]], labels[s[step]]) for s in streams])
        for name, tensor in model.state_dict().items():
            found = {**both.parameters, **both.buffers}[name][r]
            torch.testing.assert_close(found, tensor, atol=1e-4, rtol=0)


def test_half_precision_stays_close_and_leaves_the_weights_whole():
    inputs, labels, rows = problem()
    options = {"algorithm": ALGORITHMS["coral"], "seeds": [0], "steps": 30, "learning_rate": 0.01}
    full = replicate_domains(network, inputs, labels, rows[:1], **options)
    half = replicate_domains(network, inputs, labels, rows[:1], precision="bfloat16", **options)
    assert half.parameters["head.weight"].dtype == torch.float32
    apart = (full.predict_proba(inputs) - half.predict_proba(inputs)).abs().max()
    assert 1e-6 < apart < 0.05


def test_binary_logits_and_soft_targets():
    inputs, labels, rows = problem()
    binary = (labels == 0).long()

    def one(seed):
        return Featurized(nn.Identity(), nn.Linear(WIDTH, 1))

    options = {"algorithm": ALGORITHMS["vrex"], "seeds": [0], "steps": 30, "learning_rate": 0.05}
    hard = replicate_domains(one, inputs, binary, rows[:1], **options)
    soft = replicate_domains(one, inputs, binary[:, None].float(), rows[:1], **options)
    assert torch.equal(hard.parameters["head.weight"], soft.parameters["head.weight"])
    agreement = ((hard.logits(inputs)[0, :, 0] > 0) == binary.bool()).float().mean()
    assert agreement > 0.75


def test_mistakes_are_named():
    inputs, labels, rows = problem()
    options = {"algorithm": ALGORITHMS["coral"], "seeds": [0], "steps": 2}

    def call(**changed):
        given = {"labels": labels, "rows": rows[:1], **options, **changed}
        return replicate_domains(network, inputs, given.pop("labels"), given.pop("rows"), **given)

    for message, changed in {
        "one seed and one list": {"seeds": [0, 1]},
        "as many source domains": {"seeds": [0, 1], "rows": [rows[0], rows[0][:2]]},
        "needs 2 domains": {"rows": [rows[0][:1]]},
        "a domain's rows": {"rows": [[rows[0][0], torch.tensor([200])]]},
        "no hyper-parameter": {"hyper": {"lambda": 1.0}},
        "labels are class ids": {"labels": labels + 1},
        "inputs have": {"labels": labels[:5]},
        "at least 1": {"steps": 0},
        "average_from": {"average_from": 1.0},
        "checkpoints are": {"checkpoints": [3]},
        "optimizer is": {"optimizer": "rmsprop"},
        "precision is": {"precision": "float16"},
        "weight is one number": {"hyper": {"weight": -1.0}},
    }.items():
        with pytest.raises(ValueError, match=message):
            call(**changed)
    with pytest.raises(ValueError, match="a domain's rows"):
        call(rows=[[rows[0][0], torch.tensor([], dtype=torch.long)]])
    with pytest.warns(UserWarning, match="diverged"):
        call(learning_rate=1e30, steps=5)


def test_ranges_are_drawn_within_bounds_and_default_inside():
    rng = np.random.default_rng(0)
    for name, algorithm in ALGORITHMS.items():
        for key, among in algorithm.ranges.items():
            assert among.low <= algorithm.defaults()[key] <= among.high, name
            assert all(among.low <= algorithm.draw(rng)[key] <= among.high for _ in range(20))
    values = [Range(1.0, 0.01, 100.0).draw(rng) for _ in range(2000)]
    assert np.median(np.log10(values)) == pytest.approx(0, abs=0.15)
    assert ALGORITHMS["irm"].penalty is domain_penalty("irm_split")


def test_a_lab_keeps_them(tmp_path):
    inputs, labels, rows = problem()
    lab = Lab(home=tmp_path, device="cpu", progress=False)
    options = {"seeds": SEEDS, "steps": 6, "checkpoints": [2, 6]}
    first, again = (
        lab.replicate_domains(network, inputs, labels, rows, algorithm=ALGORITHMS["irm"], **options)
        for _ in range(2)
    )
    assert (lab.steps.computed, lab.steps.reused) == (1, 1)
    torch.testing.assert_close(first.state_dict(), again.state_dict(), atol=0, rtol=0)
    assert torch.equal(again.at(6).logits(inputs), first.logits(inputs))
    lab.replicate_domains(network, inputs, labels, rows, algorithm=ALGORITHMS["vrex"], **options)
    assert lab.steps.computed == 2
