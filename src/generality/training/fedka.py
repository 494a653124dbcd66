"""Federated knowledge alignment: features matched at the clients, labels voted at the server."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from generality.lab.threads import threads
from generality.models import DomainAdversarial
from generality.objectives import ReverseGrad, dann_alpha, mk_mmd
from generality.training.federated_vote import IGNORED, federated_vote
from generality.training.federation import Federation, Round, Weights

ClientData = tuple[np.ndarray | Tensor, np.ndarray | Tensor, np.ndarray | Tensor]
"""A client's inputs and class numbers, and inputs of the target domain, which have no labels."""


class FedKAClient:
    """One client of FedKA: learns its labels from features that hide the domain.

    A round has two parts. First `batches` steps of
    CE(c(f(x_s)), y) + CE(d(R f(x_s)), 0) + CE(d(R f(x_t)), 1), with R reversing the gradient by
    α(p) and p the progress over all rounds. Then as many batches of α(p)·MK-MMD(f(x_s), f_G(x_t)),
    f_G being the reference model's features, with a step every `accumulate` of them; not in the
    first round, whose reference is a random network. Batch norms see source and target apart.

    The method uses unlabelled inputs of the target at every client.

    Source: FedKA (arXiv 2203.11635), sections 3.2 and 3.3, and its released notebook.

    Args:
        make_model: gives the network, a `DomainAdversarial`.
        load: gives the client's data; called once, in the client's own process.
        seed: of batches and dropout; give every client another.
        adversarial: False leaves out the discriminator: federated averaging's plain client.
        matching: False leaves out the second part.
        batches: of each part of a round.
        learning_rate: of Adam, whose state lasts over rounds.
        released_behaviour: as the notebook, where an assignment for a sum makes a matching step
            use only the last of its `accumulate` batches.

    Raises:
        ValueError: `load` gives no examples, no target, or labels of another number.
    """

    def __init__(
        self,
        make_model: Callable[[], DomainAdversarial],
        load: Callable[[], ClientData],
        *,
        seed: int,
        adversarial: bool = True,
        matching: bool = True,
        batches: int = 32,
        batch_size: int = 16,
        learning_rate: float = 3e-4,
        accumulate: int = 8,
        device: str = "cpu",
        released_behaviour: bool = False,
    ) -> None:
        inputs, labels, target = load()
        self.inputs, self.target = torch.as_tensor(inputs), torch.as_tensor(target)
        self.labels = torch.as_tensor(labels).long()
        if (
            not len(self.inputs)
            or not len(self.target)
            or self.labels.shape != self.inputs.shape[:1]
        ):
            raise ValueError(
                f"a client has examples, a class number for each and inputs of the target, not "
                f"{len(self.inputs)}, {len(self.labels)} and {len(self.target)}"
            )
        self.model = make_model().to(device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=learning_rate)
        self.seed, self.adversarial, self.matching = seed, adversarial, matching
        self.batches, self.batch_size, self.accumulate = batches, batch_size, accumulate
        self.device, self.released_behaviour = device, released_behaviour

    def update(self, weights: Weights, reference: Weights, current: Round) -> Weights:
        """The weights after a round on this client's data."""
        with _generator(self.seed, current):
            self.model.load_state_dict(weights)
            self.model.train()
            self.disentangle(current)
            if self.matching and current.number > 0:
                self.match(reference, current)
        return _weights(self.model)

    def disentangle(self, current: Round) -> None:
        """The first part: labels, and features that do not tell the domain."""
        for alpha, rows, target_rows in self.drawn(current):
            features = self.model.featurizer(self.inputs[rows].to(self.device))
            loss = nn.functional.cross_entropy(
                self.model.head(features), self.labels[rows].to(self.device)
            )
            if self.adversarial:
                theirs = self.model.featurizer(self.target[target_rows].to(self.device))
                loss = loss + self.told_apart(features, 0, alpha)
                loss = loss + self.told_apart(theirs, 1, alpha)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()

    def told_apart(self, features: Tensor, domain: int, alpha: float) -> Tensor:
        """How badly the discriminator tells the domain, with a reversed gradient for features."""
        logits = self.model.discriminator(ReverseGrad(alpha)(features))
        return nn.functional.cross_entropy(logits, logits.new_full((len(logits),), domain).long())

    def match(self, reference: Weights, current: Round) -> None:
        """The second part: features like those that the global model has of the target."""
        fixed = copy.deepcopy(self.model)
        fixed.load_state_dict(reference)
        fixed.eval()
        self.optimizer.zero_grad()
        for done, (alpha, rows, target_rows) in enumerate(self.drawn(current), 1):
            with torch.no_grad():
                wanted = fixed.featurizer(self.target[target_rows].to(self.device))
            last = done % self.accumulate == 0 or done == self.batches
            if last or not self.released_behaviour:
                own = self.model.featurizer(self.inputs[rows].to(self.device))
                (alpha * mk_mmd(own, wanted) / self.accumulate).backward()
            if last:
                self.optimizer.step()
                self.optimizer.zero_grad()

    def drawn(self, current: Round) -> Iterator[tuple[float, Tensor, Tensor]]:
        """α and rows of both domains, for each batch of one part of a round."""
        sources = _batches(len(self.inputs), self.batch_size, self.batches)
        targets = _batches(len(self.target), self.batch_size, self.batches)
        for done, (rows, target_rows) in enumerate(zip(sources, targets, strict=True)):
            yield dann_alpha(_progress(current, done, self.batches)), rows, target_rows


class FederatedVoting:
    """The server of FedKA: tunes the global model on labels that the clients vote for.

    In every round, on `batches` batches of unlabelled target inputs, one Adam step each on
    α(p)·CE(global(x), vote); the clients vote in eval mode with the weights they have just sent.

    Source: FedKA (arXiv 2203.11635), section 3.4.

    Args:
        make_model: gives the network.
        target: unlabelled inputs of the target domain.
        labels: true labels to tune on instead: what the voting could reach at best.
        voters: "clients"; or "aggregate", whose own labels are then used: plain self-training, at
            the same cost.
        min_agree: votes of a smaller share of the clients are not learnt from.
        learning_rate: of Adam, whose state lasts over rounds.
    """

    def __init__(
        self,
        make_model: Callable[[], nn.Module],
        target: Float[np.ndarray, "n ..."] | Tensor,
        *,
        seed: int,
        labels: Int[np.ndarray, " n"] | Tensor | None = None,
        voters: Literal["clients", "aggregate"] = "clients",
        batches: int = 128,
        batch_size: int = 16,
        learning_rate: float = 3e-4,
        min_agree: float | None = None,
        device: str = "cpu",
    ) -> None:
        self.target = torch.as_tensor(target)
        self.labels = None if labels is None else torch.as_tensor(labels).long()
        self.model = make_model().to(device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=learning_rate)
        self.seed, self.voters, self.min_agree = seed, voters, min_agree
        self.batches, self.batch_size, self.device = batches, batch_size, device

    def __call__(self, aggregate: Weights, clients: list[Weights], current: Round) -> Weights:
        """The tuned weights of the global model."""
        with _generator(self.seed, current):
            rows = torch.stack(list(_batches(len(self.target), self.batch_size, self.batches)))
            labels = self.vote(clients if self.voters == "clients" else [aggregate], rows)
            self.model.load_state_dict(aggregate)
            self.model.train()
            for done, (batch, wanted) in enumerate(zip(rows, labels, strict=True)):
                if bool((wanted == IGNORED).all()):
                    continue
                alpha = dann_alpha(_progress(current, done, self.batches))
                logits = self.model(self.target[batch].to(self.device))
                loss = alpha * nn.functional.cross_entropy(logits, wanted.to(self.device))
                self.optimizer.zero_grad()
                loss.backward()
                self.optimizer.step()
        return _weights(self.model)

    def vote(
        self, voters: list[Weights], rows: Int[Tensor, "batches size"]
    ) -> Int[Tensor, "batches size"]:
        """A label for each of these target inputs."""
        if self.labels is not None:
            return self.labels[rows]
        asked, place = rows.unique(return_inverse=True)
        probabilities = []
        for weights in voters:
            self.model.load_state_dict(weights)
            probabilities.append(probabilities_of(self.model, self.target[asked], self.device))
        labels, _ = federated_vote(torch.stack(probabilities), min_agree=self.min_agree)
        return labels[place]


def fit_fedka(
    *,
    network: Callable[[int], DomainAdversarial],
    clients: Sequence[tuple[np.ndarray, np.ndarray]],
    target: Float[np.ndarray, "n ..."],
    test: tuple[np.ndarray, np.ndarray],
    seed: int,
    rounds: int,
    adversarial: bool = True,
    matching: bool = True,
    server: Literal["vote", "self", "truth"] | None = "vote",
    labels: Int[np.ndarray, " n"] | None = None,
    broadcast: str = "updated",
    batches: int = 32,
    votes: int = 128,
    batch_size: int = 16,
    learning_rate: float = 3e-4,
    watch_every: int = 1,
    processes: bool = False,
    device: str = "cpu",
) -> dict[str, Any]:
    """FedKA, or a part of it, from the first round to the last, watched on test data.

    A federation of arrays in memory, for experiments; with data that must not leave their places,
    make a `Federation` of `FedKAClient`s whose `load` reads them there.

    Args:
        network: called with the seed.
        clients: inputs and class numbers of each.
        target: unlabelled inputs of the target.
        test: inputs and class numbers of the target that nothing is trained on.
        adversarial, matching: of `FedKAClient`.
        server: tune the global model on the clients' votes, on its own labels, on `labels`, or
            (None) not at all.
        broadcast, processes: of `Federation`.
        batches, votes: of each part of a client's round, and of the server's tuning.
        watch_every: rounds from one measurement to the next; the last one is always measured.

    Returns:
        Accuracies on `test`: "score" of the last global model; for every measured round those of
        the "global" model (rounds,), the "clients" (rounds, clients) and their "vote" (rounds,).
    """
    make = functools.partial(network, seed)
    own: dict[str, Any] = {
        "batch_size": batch_size, "learning_rate": learning_rate, "device": device,
    }  # fmt: skip
    members = [
        functools.partial(
            FedKAClient, make, functools.partial(_same, (*data, target)), seed=1000 * seed + number,
            adversarial=adversarial, matching=matching, batches=batches, **own,
        )
        for number, data in enumerate(clients)
    ]  # fmt: skip
    with threads(1), torch.random.fork_rng():
        torch.manual_seed(seed)
        model = make()
        start, seen = _weights(model), []
        inputs, truth = torch.as_tensor(test[0]), torch.as_tensor(test[1])

        def watch(current: Round, together: Weights, apart: list[Weights]) -> None:
            if (current.of - 1 - current.number) % watch_every:
                return
            said = []
            for weights in (together, *apart):
                model.load_state_dict(weights)
                said.append(probabilities_of(model, inputs))
            chosen = [each.argmax(1) for each in said] + [federated_vote(torch.stack(said[1:]))[0]]
            seen.append([float((each == truth).double().mean()) for each in chosen])

        tune = server and FederatedVoting(
            make, target, seed=1000 * seed + 999, batches=votes,
            labels=labels if server == "truth" else None,
            voters="aggregate" if server == "self" else "clients", **own,
        )  # fmt: skip
        with Federation(
            members, server_update=tune or None, broadcast=broadcast, processes=processes
        ) as federation:
            federation.run(start, rounds, on_round=watch)
    table = np.array(seen)
    return {
        "score": float(table[-1, 0]), "global": table[:, 0], "clients": table[:, 1:-1],
        "vote": table[:, -1],
    }  # fmt: skip


def _same(data: Any) -> Any:
    return data


@torch.no_grad()
def probabilities_of(
    model: nn.Module, inputs: Tensor, device: str = "cpu"
) -> Float[Tensor, "n classes"]:
    """Class probabilities in eval mode, which the model is left in."""
    model.eval()
    return torch.cat([model(x.to(device)).softmax(-1).cpu() for x in inputs.split(256)])


def _progress(current: Round, done: int, batches: int) -> float:
    return (current.number + done / batches) / current.of


def _weights(model: nn.Module) -> Weights:
    return {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}


def _batches(n: int, size: int, count: int) -> Iterator[Tensor]:
    """Batches of one size from permutations laid end to end."""
    passes = -(-size * count // n)
    order = torch.cat([torch.randperm(n) for _ in range(passes)])[: size * count]
    return iter(order.view(count, size))


@contextmanager
def _generator(seed: int, current: Round) -> Iterator[None]:
    """A generator of this round's own, so that it matters not who else draws in this process."""
    state = int(np.random.SeedSequence([seed, current.number]).generate_state(1)[0])
    with torch.random.fork_rng():
        torch.manual_seed(state)
        yield
