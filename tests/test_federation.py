"""Federated rounds, votes and FedKA: the paper's numbers, and that data stay where they are."""

import functools
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from generality.errors import UserError
from generality.measures import group_effect, negative_transfer
from generality.models import DomainAdversarial, fedka_digits, mlp
from generality.training import (
    FederatedVoting,
    Federation,
    FedKAClient,
    Round,
    fedavg,
    federated_vote,
)
from generality.training import fedka as room


def model(seed: int = 0) -> DomainAdversarial:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        body = nn.Sequential(mlp(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2))
        return DomainAdversarial(body, mlp(8, 3), mlp(8, 2))


def data(domain: int, n: int = 60) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A client's inputs and labels; the target is another domain of the same problem."""
    rng = np.random.default_rng(domain)
    labels = rng.integers(0, 3, n)
    means = np.eye(6)[labels] * 3
    shift = np.eye(6)[3 + domain % 3] * 2
    target = np.eye(6)[rng.integers(0, 3, n)] * 3 - shift
    noise = rng.normal(size=(2, n, 6)) * 0.5
    inputs = (means + shift + noise[0]).astype(np.float32)
    return inputs, labels, (target + noise[1]).astype(np.float32)


def client(domain: int, **options: object) -> FedKAClient:
    return FedKAClient(
        model, functools.partial(data, domain), seed=domain, batches=4, batch_size=10,
        learning_rate=0.01, accumulate=2, **options,
    )  # fmt: skip


CLIENTS = [functools.partial(client, domain) for domain in range(3)]


# ------------------------------------------------------------------------- averaging


def test_the_average_of_equal_models_is_that_model() -> None:
    state = fedka_digits(width=8).state_dict()
    mean = fedavg([state] * 3)
    for name, tensor in state.items():
        assert torch.equal(mean[name], tensor), name
        assert mean[name].dtype == tensor.dtype


def test_opposites_cancel_and_counters_are_kept() -> None:
    one = {"w": torch.randn(4), "seen": torch.tensor(3)}
    other = {"w": -one["w"], "seen": torch.tensor(5)}
    assert torch.equal(fedavg([one, other])["w"], torch.zeros(4))
    assert fedavg([one, other])["seen"].item() == 5
    torch.testing.assert_close(fedavg([one, other], weights=[3, 1])["w"], one["w"] / 2)


@pytest.mark.parametrize(
    ("states", "weights", "message"),
    [
        ([], None, "one for each"),
        ([{"w": torch.ones(1)}], [1, 2], "one for each"),
        ([{"w": torch.ones(1)}], [-1], "not negative"),
        ([{"w": torch.ones(1)}, {"v": torch.ones(1)}], None, "not of one kind"),
    ],
)
def test_averages_that_cannot_be_are_said(states, weights, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fedavg(states, weights)


# ------------------------------------------------------------------------- votes


def test_the_papers_vote() -> None:
    votes = nn.functional.one_hot(torch.tensor([[3], [3], [5], [3]]), 10).float()
    labels, agreement = federated_vote(votes)
    assert (labels.item(), agreement.item()) == (3, 0.75)


def test_ties_and_weak_majorities() -> None:
    split = torch.tensor([[[0.6, 0.4, 0.0]], [[0.0, 0.1, 0.9]]])
    assert federated_vote(split)[0].item() == 2
    assert federated_vote(split, tie="lowest_index")[0].item() == 0
    labels, agreement = federated_vote(split, min_agree=0.75)
    assert (labels.item(), agreement.item()) == (-100, 0.5)
    with pytest.raises(ValueError, match="tie is"):
        federated_vote(split, tie="random")


@given(seed=st.integers(0, 10_000), clients=st.integers(1, 7))
def test_a_vote_is_one_of_the_most_chosen_whoever_comes_first(seed: int, clients: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    probabilities = torch.rand(clients, 5, 4, generator=generator).softmax(-1)
    labels, agreement = federated_vote(probabilities)
    again, _ = federated_vote(probabilities.flip(0))
    assert torch.equal(labels, again)
    counts = torch.stack([(probabilities.argmax(-1) == k).sum(0) for k in range(4)], -1)
    assert torch.equal(counts.gather(1, labels[:, None])[:, 0], counts.amax(1))
    torch.testing.assert_close(agreement, counts.amax(1) / clients)


def test_group_effect_and_negative_transfer_by_hand() -> None:
    rounds = group_effect(np.array([0.7, 0.5]), np.array([[0.6, 0.6], [0.7, 0.5]]))
    assert rounds == pytest.approx((0.1 - 0.1) / 2)
    assert group_effect(0.4, [0.5, 0.5]) == pytest.approx(-0.1)
    assert negative_transfer([0.6, 0.8], 0.7) == pytest.approx(0.1)


# ------------------------------------------------------------------------- rounds


def test_a_round_averages_what_the_clients_learnt() -> None:
    start = model().state_dict()
    expected = fedavg([make().update(start, start, Round(0, 1)) for make in CLIENTS])
    with Federation(CLIENTS) as federation:
        found = federation.run(start, rounds=1)
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


def test_in_the_first_round_nothing_is_matched() -> None:
    start = model().state_dict()
    later, first = Round(1, 3), Round(0, 3)
    with_, without = client(0, matching=True), client(0, matching=False)
    assert same(with_.update(start, start, first), without.update(start, start, first))
    assert not same(with_.update(start, start, later), without.update(start, start, later))


def test_matching_moves_features_towards_the_reference_and_nothing_else() -> None:
    """α·MMD has no gradient for the head and the discriminator, and falls as it is minimised."""
    start, at = model().state_dict(), Round(2, 3)
    matcher = client(0)
    matcher.update(start, start, Round(0, 3))  # Adam has moments for all parameters now
    matcher.optimizer = torch.optim.Adam(matcher.model.parameters(), lr=0.01)
    before = matcher.model.state_dict()
    before = {name: tensor.clone() for name, tensor in before.items()}
    matcher.model.train()
    matcher.match(start, at)
    moved = {n for n, t in matcher.model.state_dict().items() if not torch.equal(t, before[n])}
    assert moved
    assert all(name.startswith("featurizer") for name in moved)


def test_the_notebooks_matching_uses_one_batch_of_each_step() -> None:
    start, at = model().state_dict(), Round(1, 3)
    found = [client(0, released_behaviour=flag).update(start, start, at) for flag in (False, True)]
    assert not same(*found)


def test_the_plain_client_is_plain_training() -> None:
    """Without discriminator and matching: Adam on cross-entropy over this round's batches."""
    start = model().state_dict()
    plain = client(0, adversarial=False, matching=False)
    found = plain.update(start, start, Round(0, 1))
    again, (inputs, labels, target) = model(), data(0)
    optimizer = torch.optim.Adam(again.parameters(), lr=0.01)
    with room._generator(0, Round(0, 1)):
        again.train()
        batches = list(room._batches(60, 10, 4))
        list(room._batches(len(target), 10, 4))  # the target's batches are drawn all the same
        for rows in batches:
            loss = nn.functional.cross_entropy(
                again(torch.as_tensor(inputs)[rows]), torch.as_tensor(labels)[rows]
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert same(found, again.state_dict())


def test_a_client_without_data_is_said() -> None:
    inputs, labels, target = data(0)
    for parts in ((inputs[:0], labels[:0], target), (inputs, labels[:5], target),
                  (inputs, labels, target[:0])):  # fmt: skip
        with pytest.raises(ValueError, match="a class number for each"):
            FedKAClient(model, lambda parts=parts: parts, seed=0)


def test_a_step_of_matching_sums_its_batches() -> None:
    """Two batches are one step of Adam, along the mean of their gradients."""
    start, at = model().state_dict(), Round(1, 3)
    taken = []
    for accumulate in (2, 4):
        matcher = client(0)
        matcher.accumulate = accumulate
        matcher.model.load_state_dict(start)
        with room._generator(0, at):
            matcher.match(start, at)
        state = matcher.optimizer.state[next(matcher.model.featurizer.parameters())]
        taken.append(int(state["step"]))
    assert taken == [2, 1]  # of four batches


def test_tuning_on_votes_teaches_the_global_model() -> None:
    target = data(0)[2]
    truth = np.repeat(np.arange(3), 20)
    target = (np.eye(6)[truth] * 3 + np.random.default_rng(1).normal(size=(60, 6)) * 0.3).astype(
        np.float32
    )
    start = model().state_dict()
    server = FederatedVoting(
        model, target, seed=0, labels=truth, batches=60, batch_size=20, learning_rate=0.02
    )
    tuned = server(start, [start], Round(1, 2))
    server.model.load_state_dict(tuned)
    right = room.probabilities_of(server.model, torch.as_tensor(target)).argmax(1).numpy() == truth
    assert right.mean() > 0.95
    voting = FederatedVoting(model, target, seed=0)
    rows = torch.arange(60).view(3, 20)
    assert (voting.vote([tuned, tuned, start], rows).flatten().numpy() == truth).mean() > 0.95
    assert torch.equal(
        voting.vote([start], rows).flatten(),
        probabilities(start, target).argmax(1),
    )
    crowd = [model(k).state_dict() for k in range(3)]
    assert torch.equal(voting.vote(crowd, rows), voting.vote(crowd, rows)), "voters do not drop out"


def test_what_is_broadcast() -> None:
    """The tuned model, or the bare average with the tuned one as reference."""
    seen: list[tuple[float, float]] = []

    class Notes:
        def update(self, weights, reference, current):
            seen.append((weights["w"].item(), reference["w"].item()))
            return {"w": weights["w"] + 1}

    for broadcast in ("updated", "aggregate"):
        Federation(
            [Notes], server_update=lambda mean, clients, at: {"w": mean["w"] + 10},
            broadcast=broadcast,
        ).run({"w": torch.zeros(1)}, rounds=2)  # fmt: skip
    assert seen == [(0, 0), (11, 11), (0, 0), (1, 11)]


# ------------------------------------------------------------------------- processes


def data_of(domain: int, folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The data, and a note of who loaded them."""
    (folder / f"{domain}.{os.getpid()}").touch()
    return data(domain)


class Leaves(FedKAClient):
    """A client that has no data in the last of 99 rounds."""

    def update(self, weights, reference, current):
        if current.of == 99:
            raise ValueError("out of data")
        return super().update(weights, reference, current)


def remote_client(domain: int, folder: Path) -> FedKAClient:
    load = functools.partial(data_of, domain, folder)
    return Leaves(model, load, seed=domain, batches=4, batch_size=10)


@pytest.mark.slow
def test_clients_in_processes_learn_the_same_keep_their_data_and_may_fail(tmp_path: Path) -> None:
    start = model().state_dict()
    clients = [functools.partial(remote_client, domain, tmp_path) for domain in (0, 1)]
    options = {"batches": 3, "batch_size": 10}
    here = Federation(clients, server_update=FederatedVoting(model, data(5)[2], seed=9, **options))
    expected = here.run(start, rounds=3)
    for note in tmp_path.iterdir():
        note.unlink()
    server = FederatedVoting(model, data(5)[2], seed=9, **options)
    with Federation(clients, server_update=server, processes=True) as federation:
        assert same(federation.run(start, rounds=3), expected)
        (zero,), (one,) = tmp_path.glob("0.*"), tmp_path.glob("1.*")
        assert len({zero.suffix, one.suffix, f".{os.getpid()}"}) == 3
        with pytest.raises(UserError, match="Client 0 failed: ValueError: out of data"):
            federation.exchange(start, start, Round(0, 99))
        federation.seats[1].process.kill()
        federation.seats[1].process.join()
        with pytest.raises(UserError, match="client 1 died"):
            federation.exchange(start, start, Round(1, 3))
    assert not any(seat.process.is_alive() for seat in federation.seats)


def probabilities(weights, inputs) -> torch.Tensor:
    net = model()
    net.load_state_dict(weights)
    return room.probabilities_of(net, torch.as_tensor(inputs))


def same(one, other) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def test_every_arm_of_the_method_runs_from_arrays() -> None:
    """The whole, its parts, and what is watched."""
    arrays = [data(domain) for domain in range(2)]
    target, truth = data(5)[0], data(5)[1]
    asked = {
        "network": model, "clients": [(x, y) for x, y, _ in arrays], "target": target,
        "test": (target, truth), "seed": 0, "rounds": 4, "batches": 2, "votes": 3,
        "learning_rate": 0.01,
    }  # fmt: skip
    whole = room.fit_fedka(**asked, watch_every=3)
    assert whole["clients"].shape == (2, 2)
    assert whole["global"].shape == whole["vote"].shape == (2,)
    assert whole["score"] == whole["global"][-1]
    assert same_numbers(whole, room.fit_fedka(**asked, watch_every=3))
    options = [{"server": None}, {"server": "self"}, {"broadcast": "aggregate"}]
    options += [{"server": "truth", "labels": truth}, {"adversarial": False}, {"matching": False}]
    finals = [room.fit_fedka(**asked, **option)["clients"][-1].tolist() for option in options]
    assert len({str(final) for final in [whole["clients"][-1].tolist(), *finals]}) > 2


def same_numbers(one, other) -> bool:
    return all(np.array_equal(one[name], other[name]) for name in one)
