"""Optional copies of a run's rows in an experiment tracker: MLflow, Weights & Biases or trackio."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from importlib.util import find_spec
from typing import Any, Protocol

from generality.claims import Row
from generality.errors import UserError, import_extra, unknown


class Sink(Protocol):
    """Receives a run as it happens; the files on disk stay the record."""

    def start(self, study: str, config: dict[str, Any]) -> None:
        """A run begins."""

    def log(self, row: Row) -> None:
        """One row is known."""

    def finish(self) -> None:
        """The run is over."""


def make_sink(name: str) -> Sink:
    """The sink called `mlflow`, `wandb` or `trackio`."""
    if name not in _SINKS:
        raise unknown("tracker", name, _SINKS)
    return _Tracker(name, _SINKS[name]())


class _Tracker:
    """A sink whose prints stay off standard output and whose failures are one sentence."""

    def __init__(self, name: str, sink: Sink) -> None:
        self.name, self.sink = name, sink

    def start(self, study: str, config: dict[str, Any]) -> None:
        with self._guarded():
            self.sink.start(study, config)

    def log(self, row: Row) -> None:
        with self._guarded():
            self.sink.log(row)

    def finish(self) -> None:
        with self._guarded():
            self.sink.finish()

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            with redirect_stdout(sys.stderr):
                yield
        except UserError:
            raise
        except Exception as error:
            reason = str(error).strip().split("\n")[0] or type(error).__name__
            raise UserError(
                f"{self.name} failed: {reason} The run's own files are whole: mend that, or run "
                "again without --track."
            ) from error


def _numbers(row: Row) -> dict[str, float]:
    """The row's measurements, named by method so that one chart holds one method."""
    return {
        re.sub(r"[^\w\-. :/]", "_", f"{row.get('method', 'row')}/{name}"): float(value)
        for name, value in row.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool) and name != "seed"
    }


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, value in config.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = str(value)[:500]
    return flat


class MLflow:
    """Needs `generality[mlflow]` and a server at MLFLOW_TRACKING_URI, or the whole of `mlflow`."""

    def start(self, study: str, config: dict[str, Any]) -> None:
        """Open an MLflow run in the experiment named after the study."""
        self.mlflow = import_extra("mlflow", "mlflow")
        if not self.mlflow.is_tracking_uri_set() and not find_spec("sqlalchemy"):
            raise UserError(
                "MLflow has nowhere to write: set MLFLOW_TRACKING_URI to the address of a server, "
                "or `pip install mlflow` for a store in this folder."
            )
        self.mlflow.set_experiment(f"generality/{study}")
        self.mlflow.start_run()
        self.mlflow.log_params(_flat(config))
        self.count = 0

    def log(self, row: Row) -> None:
        """Log the row's numbers at the next step."""
        self.mlflow.log_metrics(_numbers(row), step=self.count)
        self.count += 1

    def finish(self) -> None:
        """Close the run."""
        self.mlflow.end_run()


class Wandb:
    """Needs `generality[wandb]`; WANDB_MODE=offline keeps it local."""

    def start(self, study: str, config: dict[str, Any]) -> None:
        """Open a run in the project `generality`."""
        self.run = import_extra("wandb", "wandb").init(
            project="generality", group=study, config=config
        )

    def log(self, row: Row) -> None:
        """Log the row's numbers."""
        self.run.log(_numbers(row))

    def finish(self) -> None:
        """Close the run."""
        self.run.finish()


class Trackio:
    """Needs `generality[trackio]`; keeps to this machine."""

    def start(self, study: str, config: dict[str, Any]) -> None:
        """Open a run in the project `generality-<study>`."""
        self.trackio = import_extra("trackio", "trackio")
        self.trackio.init(project=f"generality-{study}", config=_flat(config))

    def log(self, row: Row) -> None:
        """Log the row's numbers."""
        self.trackio.log(_numbers(row))

    def finish(self) -> None:
        """Close the run."""
        self.trackio.finish()


_SINKS: dict[str, type[Sink]] = {"mlflow": MLflow, "wandb": Wandb, "trackio": Trackio}
