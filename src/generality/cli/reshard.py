"""`generality reshard`: a checkpoint of one parallel layout in the form of another."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from generality.cli import options
from generality.errors import UserError


def reshard(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            help="Folder of torch.distributed.checkpoint, a universal one, the ranks of a layout, "
            "or a .pt or .safetensors file."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write.")],
    to: Annotated[
        str,
        typer.Option(
            help="universal (a safetensors file for each parameter), dcp (PyTorch's own, for any "
            "FSDP or DTensor layout), weights (one safetensors file without the optimizer), or the "
            "parts of ranks: tp=2,pp=2,dp=4,zero=1."
        ),
    ] = "universal",
    rules: Annotated[
        str | None,
        typer.Option(
            help="For ranks: what tensor parallelism cuts how: llama, gpt2, mixtral, replicated, "
            "or a JSON file of patterns. By default as in CHECKPOINT, else replicated."
        ),
    ] = None,
    json: options.Json = False,
) -> None:
    """Rewrite a training's checkpoint for another number or another layout of processes.

    Weights, the optimizer's state, random generators and counters are kept to the bit. Nothing is
    unpickled, and the result appears whole or not at all.
    """
    from generality.weights.parallel_layout import LayoutSpec
    from generality.weights.parallel_rules import rules_for
    from generality.weights.universal_checkpoint import open_training_state, save_training_state

    target: str | LayoutSpec = to
    if to not in ("universal", "dcp", "weights"):
        try:
            target = LayoutSpec.parse(to)
        except ValueError as error:
            raise UserError(f"--to is universal, dcp or weights, or: {error}.") from error
    if rules and isinstance(target, str):
        raise UserError(f"--rules is for the parts of ranks, not for --to {to}: leave it out.")
    started = time.perf_counter()
    state = open_training_state(checkpoint)
    chosen = rules_for(rules) if rules else ()
    if not chosen and state.layout is None and isinstance(target, LayoutSpec):
        if target.tp > 1:
            raise UserError("Say by --rules how tensor parallelism cuts this model's parameters.")
        chosen = rules_for("replicated")
    told = save_training_state(state, out, to=target, rules=chosen)
    seconds = time.perf_counter() - started
    kept = sorted({key for name in state.parameters for key in state.parameters[name]})
    if json:
        options.print_json(
            {**told, "states": kept, "extra": sorted(state.extra), "out": out,
             "seconds": round(seconds, 3)}
        )  # fmt: skip
        return
    console = options.console()
    console.print(
        f"{told['parameters']} parameters with {', '.join(kept)}: {told['bytes'] / 2**20:.1f} MiB "
        f"in {seconds:.1f} s, as {to} in {out}",
        soft_wrap=True,
    )
    if state.extra:
        console.print(f"Also kept: {', '.join(sorted(state.extra))}", soft_wrap=True)
