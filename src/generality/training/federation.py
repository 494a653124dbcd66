"""Training over clients whose data stay where they are: rounds of weights out and weights back."""

from __future__ import annotations

import json
import os
import struct
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Protocol

import torch
from safetensors.torch import load, save
from torch import Tensor

from generality.errors import UserError

Weights = dict[str, Tensor]
"""A module's `state_dict()`: parameters and buffers by name."""


@dataclass(frozen=True)
class Round:
    """Which round it is: `number` from 0, of `of`."""

    number: int
    of: int


class Client(Protocol):
    """One holder of data."""

    def update(self, weights: Weights, reference: Weights, current: Round) -> Weights:
        """Train from `weights` on data of one's own and give the new weights.

        `reference` are those of the global model of the round before, which methods that match
        features look at; most often the same as `weights`.
        """


ServerUpdate = Callable[[Weights, list[Weights], Round], Weights]
"""From the aggregate and every client's weights of a round to the global model's."""
OnRound = Callable[[Round, Weights, list[Weights]], None]


def fedavg(
    state_dicts: Sequence[Mapping[str, Tensor]], weights: Sequence[float] | None = None
) -> Weights:
    """The mean of several models' weights, batch norms' statistics included.

    Sums are in double precision, so that the mean of equal models is that model. Counters
    (integers, such as batch norms' `num_batches_tracked`) have no mean: the largest is taken.

    Source: McMahan et al. 2017 (arXiv 1602.05629); FedKA (arXiv 2203.11635) with equal weights.

    Args:
        weights: of each model, not negative; by default equal. For a mean over all examples, the
            clients' numbers of examples.

    Raises:
        ValueError: no models, models of other names, or weights that cannot be shares.

    >>> fedavg([{"w": torch.tensor([1.0])}, {"w": torch.tensor([4.0])}], weights=[2, 1])
    {'w': tensor([2.])}
    """
    shares = [1.0] * len(state_dicts) if weights is None else [float(w) for w in weights]
    if not state_dicts or len(shares) != len(state_dicts):
        raise ValueError(f"{len(shares)} weights for {len(state_dicts)} models: one for each")
    if min(shares) < 0 or sum(shares) <= 0:
        raise ValueError("weights are not negative, and not all 0")
    if any(set(other) != set(state_dicts[0]) for other in state_dicts):
        raise ValueError("the models have tensors of different names: they are not of one kind")
    mean = {}
    for name, first in state_dicts[0].items():
        stacked = torch.stack([state[name] for state in state_dicts])
        if not first.is_floating_point():
            mean[name] = stacked.amax(0)
            continue
        share = torch.tensor(shares, dtype=torch.float64, device=stacked.device) / sum(shares)
        mean[name] = torch.tensordot(share, stacked.double(), dims=1).to(first.dtype)
    return mean


class Federation:
    """Clients and the rounds between them.

    Every round each client gets the weights and gives back its own; the server sees weights only.
    In-process the clients are asked one after another. With `processes=True` each lives in a
    process of its own, where `clients[k]()` is called, so that what it loads is never in this
    process or another client's; weights travel as safetensors bytes, and nothing that a client
    sends is unpickled. Both give the same weights when clients draw from generators of their own.

    Flower's simulation was not taken: it needs Ray and a running SuperLink to pass the same two
    dictionaries. A Flower client's `fit(parameters, config)` is `Client.update` with lists of
    arrays, so a client written for this class fits in there.

    Args:
        clients: functions without arguments that make a client; importable for `processes=True`.
        aggregate: from the clients' weights to one model's.
        server_update: what the server does with the aggregate afterwards; None: nothing.
        broadcast: what clients start the next round from: the server's "updated" model, or the
            bare "aggregate", as FedKA's released code has it. Their reference is always "updated".
        processes: whether every client has a process.

    Raises:
        UserError: a client failed or died, in a process.

    >>> class Adds:
    ...     def __init__(self, amount): self.amount = amount
    ...     def update(self, weights, reference, current):
    ...         return {"w": weights["w"] + self.amount}
    >>> clients = [lambda: Adds(1.0), lambda: Adds(3.0)]
    >>> with Federation(clients) as federation:
    ...     federation.run({"w": torch.zeros(1)}, rounds=5)
    {'w': tensor([10.])}
    """

    def __init__(
        self,
        clients: Sequence[Callable[[], Client]],
        *,
        aggregate: Callable[[Sequence[Weights]], Weights] = fedavg,
        server_update: ServerUpdate | None = None,
        broadcast: str = "updated",
        processes: bool = False,
    ) -> None:
        if not clients:
            raise ValueError("a federation needs a client")
        if broadcast not in ("updated", "aggregate"):
            raise ValueError(f"broadcast is 'updated' or 'aggregate', not '{broadcast}'")
        self.aggregate, self.server_update, self.broadcast = aggregate, server_update, broadcast
        seats = [_Remote(k, make) if processes else _Local(make) for k, make in enumerate(clients)]
        self.seats: list[_Remote | _Local] = list(seats)

    def __enter__(self) -> Federation:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def run(self, weights: Weights, rounds: int, *, on_round: OnRound | None = None) -> Weights:
        """The global model after some rounds from `weights`; `on_round` sees each round's end."""
        updated = sent = weights
        for number in range(rounds):
            current = Round(number, rounds)
            locals_ = self.exchange(sent, updated, current)
            sent = updated = self.aggregate(locals_)
            if self.server_update is not None:
                updated = self.server_update(sent, locals_, current)
                sent = updated if self.broadcast == "updated" else sent
            if on_round is not None:
                on_round(current, updated, locals_)
        return updated

    def exchange(self, weights: Weights, reference: Weights, current: Round) -> list[Weights]:
        """Every client's weights after one round; in processes they work at the same time."""
        for seat in self.seats:
            seat.ask(weights, reference, current)
        return [seat.answer() for seat in self.seats]

    def close(self) -> None:
        """End the clients' processes."""
        for seat in self.seats:
            seat.close()


class _Local:
    """A client in this process."""

    def __init__(self, make: Callable[[], Client]) -> None:
        self.client = make()

    def ask(self, weights: Weights, reference: Weights, current: Round) -> None:
        self.question = (weights, reference, current)

    def answer(self) -> Weights:
        return self.client.update(*self.question)

    def close(self) -> None:
        pass


class _Remote:
    """A client in a process of its own, at the other end of a pipe."""

    def __init__(self, number: int, make: Callable[[], Client]) -> None:
        self.number = number
        context = get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, make), daemon=False)
        self.process.start()
        theirs.close()

    def ask(self, weights: Weights, reference: Weights, current: Round) -> None:
        same = reference is weights
        about = {"number": current.number, "of": current.of, "same": same}
        tensors = {f"w.{name}": tensor.contiguous() for name, tensor in weights.items()}
        if not same:
            tensors |= {f"r.{name}": tensor.contiguous() for name, tensor in reference.items()}
        try:
            self.pipe.send_bytes(_packed(about, tensors))
        except OSError as error:
            raise self.died() from error

    def answer(self) -> Weights:
        try:
            about, tensors = _unpacked(self.pipe.recv_bytes())
        except (EOFError, OSError) as error:
            raise self.died() from error
        if "error" in about:
            raise UserError(f"Client {self.number} failed: {about['error']}")
        return tensors

    def died(self) -> UserError:
        return UserError(
            f"The process of client {self.number} died: most likely for lack of memory, or because "
            'the program that starts it has no `if __name__ == "__main__":` around its work.'
        )

    def close(self) -> None:
        self.pipe.close()  # the client reads the end of the pipe and goes
        self.process.join(timeout=10)
        if self.process.is_alive():
            self.process.terminate()


def _serve(pipe: Connection, make: Callable[[], Client]) -> None:
    """A client's process: answers until the server hangs up."""
    torch.set_num_threads(1)
    client: Client | None = None
    while True:
        try:
            about, tensors = _unpacked(pipe.recv_bytes())
        except (EOFError, OSError):
            return
        try:
            client = client or make()
            weights = {k[2:]: v for k, v in tensors.items() if k.startswith("w.")}
            kept = {k[2:]: v for k, v in tensors.items() if k.startswith("r.")}
            reference = weights if about["same"] else kept
            found = client.update(weights, reference, Round(about["number"], about["of"]))
            reply = _packed({}, {k: v.detach().cpu().contiguous() for k, v in found.items()})
        except Exception as error:  # noqa: BLE001 - whatever it is, the server says it
            where = os.environ.get("GENERALITY_DEBUG") and traceback.format_exc()
            reply = _packed({"error": where or f"{type(error).__name__}: {error}"}, {})
        pipe.send_bytes(reply)


def _packed(about: Mapping[str, object], tensors: Weights) -> bytes:
    """A message: the length of its JSON part, the JSON, safetensors."""
    header = json.dumps(about).encode()
    return struct.pack("<I", len(header)) + header + save(tensors)


def _unpacked(message: bytes) -> tuple[dict[str, Any], Weights]:
    (length,) = struct.unpack_from("<I", message)
    return json.loads(message[4 : 4 + length]), load(message[4 + length :])
