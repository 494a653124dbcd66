"""What workers are given in test_executors: importable, as a study's functions are."""

import os
import signal
import time
from pathlib import Path

import numpy as np
import torch

from generality.errors import UserError
from generality.lab import Lab


def nothing() -> None:
    return None


def square(_: object, item: int) -> int:
    return item * item


def norm(_: object, item: np.ndarray) -> np.ndarray:
    return item / np.linalg.norm(item)


def threads(_: object, item: int) -> tuple[int, str | None]:
    return torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS")


def mistaken(_: object, item: int) -> int:
    if item == 1:
        raise UserError("Item 1 has no label; give it one.")
    return item


def buggy(_: object, item: int) -> float:
    return 1 / item


def killed(_: object, item: int) -> int:
    if item == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return item


def no_context() -> None:
    raise UserError("The cache cannot be written; free space.")


def nested(lab: Lab, item: int) -> int:
    return lab.step(logged, item % 2, str(lab.steps.root.parent / "log"))


def logged(value: int, log: str) -> int:
    with open(log, "a") as file:
        file.write(f"{value}\n")
    return value + 10


def stays(_: object, folder: Path) -> None:
    (folder / str(os.getpid())).write_text("")
    time.sleep(600)
