"""Does more practice help? A study of no model, for the tests of what surrounds studies.

Each seed asks two arms and takes no time. With `gate` set, seeds after the first wait until that
file exists, and say in a file with `.reached` after its name that they do: a run can be caught in
the middle, when all rows of the first seed have been handed over.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from generality.claims import Claim, Row, greater, less
from generality.errors import UserError
from generality.lab import Lab
from generality.studies.study import Paper

PAPER = Paper("Practice", "0000.00000", 2020)


@dataclass(frozen=True)
class Config:
    """Every knob."""

    seeds: int = 3
    practice: float = 0.5  # hours
    arms: tuple[str, ...] = ("idle", "practised")
    sizes: tuple[int, ...] = (1, 2)
    mode: Literal["plain", "torn", "mistaken", "lethal"] = "plain"
    rounds: Literal[1, 2] = 1
    limit: int | float | None = None
    loud: bool = False
    extra: dict[str, int] | None = None
    gate: str | None = None  # a file to wait for
    log: str | None = None  # a file that gets a line per computed step


SCALES = {"smoke": Config(seeds=2), "small": Config(), "full": Config(seeds=20)}

CLAIMS = (
    Claim("Practice [helps]", greater("practised", "idle")),
    Claim("Practice is not all", less("practised", "ceiling"), expected_at="full"),
)


def run(config: Config, lab: Lab) -> Iterator[Row]:
    """Two rows a seed."""
    items = [(config, seed) for seed in lab.seeds(config.seeds)]
    for rows in lab.map(one_seed, items, description="Practising"):
        yield from rows


def one_seed(lab: Lab, item: tuple[Config, int]) -> list[Row]:
    config, seed = item
    if seed and config.mode == "mistaken":
        raise UserError("The data of seed 1 lacks a column; add it.")
    return [
        Row(
            method=arm, seed=seed, floor=0.4, ceiling=0.9, mode=config.mode,
            score=lab.step(score, arm, seed, config.practice, uncached={"config": config}),
        )
        for arm in config.arms
    ]  # fmt: skip


def score(arm: str, seed: int, practice: float, config: Config) -> float:
    if seed and config.gate:
        Path(f"{config.gate}.reached").touch()
        while not Path(config.gate).exists():
            time.sleep(0.02)
    if seed and config.mode == "lethal":
        os.kill(os.getpid(), 9)
    if config.log:
        with open(config.log, "a") as log:
            log.write(f"{arm} {seed}\n")
    return 0.5 + 0.1 * practice * (arm == "practised") + 0.01 * seed
