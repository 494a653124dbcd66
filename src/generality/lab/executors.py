"""Where the work of a study runs: here, in processes of this machine, or on a Ray cluster.

Functions and arguments travel between our own processes by the executor's own means; nothing of
that touches the disk or is ever read back from it.
"""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from typing import Any, Protocol, TypeVar

from generality.errors import UserError, import_extra
from generality.lab.threads import available_cores

Result = TypeVar("Result")
Setup = Callable[[], Any]
"""Builds, inside a worker, what every call there gets as its first argument."""


class Executor(Protocol):
    """Calls function(context, item) for every item; results come in the order of the items."""

    def map(
        self, function: Callable[[Any, Any], Result], items: Sequence[Any], setup: Setup
    ) -> Iterator[Result]:
        """Results, each as soon as it and those before it are ready."""


def make_executor(on: str) -> Executor:
    """The executor named `in-process`, `processes:N`, `ray` or `ray://host:port`."""
    kind, _, count = on.partition(":")
    if on == "in-process":
        return InProcess()
    if on == "processes":
        return Processes(available_cores())
    if kind == "processes":
        if not re.fullmatch("0*[1-9][0-9]{0,3}", count):
            raise UserError(f"--on {on}: write processes:N with N ≥ 1, for example processes:2.")
        return Processes(int(count))
    if on == "ray" or re.fullmatch(r"ray://.+:\d+", on):
        return OnRay(None if on == "ray" else on)
    raise UserError(f"--on {on}: choose in-process, processes:N, ray or ray://host:port.")


class InProcess:
    """One after another, in this process."""

    def map(
        self, function: Callable[[Any, Any], Result], items: Sequence[Any], setup: Setup
    ) -> Iterator[Result]:
        """Results in order."""
        context = setup()
        return (function(context, item) for item in items)


class Processes:
    """Worker processes that share this machine's cores evenly; each keeps to its share.

    Workers end with this process, however it ends.
    """

    def __init__(self, count: int) -> None:
        self.count = count

    def map(
        self, function: Callable[[Any, Any], Result], items: Sequence[Any], setup: Setup
    ) -> Iterator[Result]:
        """Results in order."""
        share = max(1, available_cores() // self.count)
        pool = ProcessPoolExecutor(
            max_workers=min(self.count, max(len(items), 1)),
            mp_context=get_context("spawn"),
            initializer=_start_worker,
            initargs=(share, setup),
        )
        finished = False
        try:
            with _Environment(OMP_NUM_THREADS=str(share), MKL_NUM_THREADS=str(share)):
                pending = [pool.submit(_call, function, item) for item in items]
            for future in pending:
                yield future.result()
            finished = True
        except BrokenProcessPool as error:
            raise UserError(_WORKER_DIED) from error
        finally:
            workers = list((pool._processes or {}).values())
            pool.shutdown(wait=finished, cancel_futures=True)
            if not finished:
                for worker in workers:
                    worker.terminate()


class OnRay:
    """Tasks on a Ray cluster: a local one by default, or the one at `address`."""

    def __init__(self, address: str | None = None) -> None:
        self.address = address

    def map(
        self, function: Callable[[Any, Any], Result], items: Sequence[Any], setup: Setup
    ) -> Iterator[Result]:
        """Results in order."""
        ray = import_extra("ray", "ray")
        if not ray.is_initialized():
            try:
                ray.init(address=self.address, log_to_driver=False, configure_logging=False)
            except ConnectionError as error:
                where = self.address or os.environ.get("RAY_ADDRESS", "this machine")
                raise UserError(f"No Ray cluster answers at {where}.") from error
        remote = ray.remote(num_cpus=1, max_retries=1)(_call_with)
        pending = [remote.remote(function, item, setup) for item in items]
        finished = False
        try:
            for reference in pending:
                yield ray.get(reference)
            finished = True
        except ray.exceptions.RayTaskError as error:
            raise error.cause from error
        except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError) as error:
            raise UserError(_WORKER_DIED) from error
        finally:
            if not finished:  # cancelling a task that has just ended can abort this very process
                _, waiting = ray.wait(pending, num_returns=len(pending), timeout=0)
                for reference in waiting:
                    ray.cancel(reference, force=False)


_WORKER_DIED = (
    "A worker process died, most likely for lack of memory. What was finished is kept: run the "
    "same command again, with fewer processes."
)


class _Worker:
    """What a worker process remembers between calls."""

    setup: Setup
    context: Any = None


def _start_worker(share: int, setup: Setup) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the parent ends its workers
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import torch

    torch.set_num_threads(share)
    _Worker.setup = setup


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _call(function: Callable[[Any, Any], Result], item: Any) -> Result:
    if _Worker.context is None:  # here, so that what goes wrong reaches the caller as it is
        _Worker.context = _Worker.setup()
    return function(_Worker.context, item)


def _call_with(function: Callable[[Any, Any], Result], item: Any, setup: Setup) -> Result:
    import torch

    torch.set_num_threads(1)
    return function(setup(), item)


class _Environment:
    """Environment variables set inside the block; workers started in it inherit them."""

    def __init__(self, **variables: str) -> None:
        self.variables = variables
        self.before: dict[str, str | None] = {}

    def __enter__(self) -> None:
        for name, value in self.variables.items():
            self.before[name] = os.environ.get(name)
            os.environ[name] = value

    def __exit__(self, *_: object) -> None:
        for name, value in self.before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
