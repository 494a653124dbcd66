"""Models on disk made one model on disk, whatever their size."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from generality.errors import UserError
from generality.models.hub_card import merged_card
from generality.weights.checkpoint_stream import (
    SHARD_BYTES,
    AdaptedCheckpoint,
    Checkpoint,
    CheckpointWriter,
    open_checkpoint,
    refuse_existing,
)
from generality.weights.merge_checks import check_mergeable, home
from generality.weights.merge_recipe import FROM_BASE, USERS, Recipe
from generality.weights.merging import Merger
from generality.weights.stored_numbers import dtype_name, torch_name

if TYPE_CHECKING:
    import torch

KEPT = (".json", ".txt", ".model", ".jinja")
LEFT = ("adapter_config.json", "trainer_state.json", "provenance.json")
"""Of the files beside the weights: those kept, and those that say nothing about the result."""


def merge_models(
    models: Sequence[str | Path],
    out: str | Path,
    recipe: Recipe = Recipe(),  # noqa: B008 - frozen
    *,
    base: str | Path | None = None,
    fisher: Sequence[str | Path] = (),
    dtype: torch.dtype | str | None = None,
    shard_bytes: int = SHARD_BYTES,
    command: str = "",
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Merge models (or LoRA adapters) into a folder that transformers loads.

    A few megabytes of each model are in memory at a time. The folder appears when it is whole; the
    same call goes on where a killed one was.

    Args:
        models: pinned names, `hf:org/name`, or folders, of one architecture and vocabulary.
        out: the folder to make: weights, config, tokenizer, a card that says what was merged how.
        recipe: how; see `Recipe` and `merge`.
        base: what they were tuned from; adapters name theirs, unless it is given here.
        fisher: of "fisher": a folder of safetensors for each model.
        dtype: of the result, as torch has it or its name ("bfloat16"); by default, tensor by
            tensor, the base's or the first model's.
        shard_bytes: a file holds at most as much.
        command: what was typed, for the card.
        progress: called with (tensors done, tensors in all).

    Returns:
        What was done: method, settings, models, tensors, parameters, bytes, tensors taken from an
        earlier attempt, seconds.

    Raises:
        UserError: a model is not whole, two do not fit, a number is not finite, `out` is there
            already, or the disk is too small.

    >>> import torch
    >>> from tempfile import mkdtemp
    >>> from safetensors.torch import save_file
    >>> folder = Path(mkdtemp())
    >>> for name, value in (("a", 1.0), ("b", 3.0)):
    ...     (folder / name).mkdir()
    ...     save_file({"w": torch.tensor([value])}, folder / name / "model.safetensors")
    >>> merge_models([folder / "a", folder / "b"], folder / "merged")["parameters"]
    1
    >>> open_checkpoint(folder / "merged")["w"]
    tensor([2.])
    """
    began, folder = time.monotonic(), Path(out)
    refuse_existing(folder)
    if not models:
        raise UserError("Name the models to merge.")
    under = None if base is None else str(base)
    opened = [open_checkpoint(model, base=under) for model in models]
    root = open_checkpoint(base) if base is not None else None
    if root is None and all(isinstance(each, AdaptedCheckpoint) for each in opened):
        root = opened[0].base  # type: ignore[attr-defined]
    elif root is None and recipe.method in FROM_BASE:
        raise UserError(
            f"{recipe.method} adds up what the models learned since their base: name it by --base."
        )
    everyone = ([] if root is None else [root]) + opened
    check_mergeable(everyone)
    informations = open_fisher(fisher)
    names = [f"'{each.name}'" for each in opened]
    merger = merger_of(opened, recipe, base=root, fisher=informations, names=names)
    specs = {
        name: replace(spec, dtype=dtype_name(dtype)) if dtype and spec.floating else spec
        for name, spec in merger.specs.items()
    }
    settings = _settings(recipe, len(opened))
    decides = {
        "settings": settings, "models": [each.identity for each in everyone + informations],
    }  # fmt: skip
    with CheckpointWriter(folder, specs, recipe=decides, shard_bytes=shard_bytes) as writer:
        resumed = len(writer.done)
        try:
            for number, name in enumerate(specs, 1):
                if name not in writer.done:
                    writer.write(name, merger.pieces(name))
                if progress is not None:
                    progress(number, len(specs))
        except UserError:
            shutil.rmtree(writer.partial, ignore_errors=True)  # no second attempt would do better
            raise
        report = {
            "method": recipe.method, "settings": settings, "models": [each.name for each in opened],
            "base": root.name if root is not None else None, "tensors": len(specs),
            "parameters": sum(spec.size for spec in specs.values()),
            "bytes": sum(spec.bytes for spec in specs.values()), "resumed": resumed,
        }  # fmt: skip
        card = model_card(folder.name, report, command=command)
        writer.finish(_other_files(everyone, dtype) | {"README.md": card})
    return {**report, "seconds": round(time.monotonic() - began, 3)}


def merger_of(models: Sequence[Checkpoint], recipe: Recipe, **given: Any) -> Merger:
    """A `Merger` of open models; what does not fit is for the person to mend: UserError."""
    try:
        return Merger(models, recipe, **given)
    except ValueError as error:
        raise UserError(f"These cannot be merged: {error}.") from error


def open_fisher(folders: Sequence[str | Path]) -> list[Checkpoint]:
    """The diagonal Fisher information of each model, from a folder of safetensors each.

    Raises:
        UserError: there are none in a folder.
    """
    for folder in folders:
        if not any(Path(folder).glob("*.safetensors")):
            raise UserError(
                f"There is no Fisher information in '{folder}': save what "
                "generality.measures.diagonal_fisher gives as model.safetensors in a folder, and "
                "name one for each model."
            )
    return [Checkpoint(Path(each)) for each in folders]


def model_card(title: str, report: dict[str, Any], *, command: str = "") -> str:
    """A model card in the hub's form: what was merged, and how exactly."""
    models, settings = report["models"], report["settings"]
    weights = settings.get("weights") or [""] * len(models)
    sources = [report["base"]] if report["base"] else models
    rows = "\n".join(f"| {name} | {weight} |" for name, weight in zip(models, weights, strict=True))
    how = ", ".join(f"{name} {value}" for name, value in settings.items() if name != "weights")
    about = f" on the base `{report['base']}`" if report["base"] else ""
    body = f"""{len(models)} models merged by **{report["method"]}**{about}. No training took place.

| model | weight |
|---|---|
{rows}

Settings: {how}."""
    return merged_card(title, sources, body, command=command)


def _settings(recipe: Recipe, count: int) -> dict[str, Any]:
    """The settings that play a part, as JSON."""
    rule, found = recipe.rule, asdict(recipe)
    used = ["method", "weights"]
    used += [name for name, rules in USERS.items() if rule in rules and name in found]
    if recipe.method == "layerwise":
        used += ["inner", "granularity", "groups"]
    found |= {"lam": recipe.scale, "density": recipe.kept}
    plain = {name: found[name] for name in used}
    plain["weights"] = list(recipe.weights) if recipe.weights else [1.0] * count
    if recipe.method == "layerwise":
        plain["groups"] = {group: list(weights) for group, weights in recipe.groups.items()}
    return plain


def _other_files(models: Sequence[Checkpoint], dtype: Any) -> dict[str, Any]:
    """Configuration and tokenizer: the first model's, and the tokenizer's from whoever has it."""
    found: dict[str, Any] = {}
    for model in models:
        folder = home(model)
        tokenizer = any((folder / f).is_file() for f in ("tokenizer.json", "tokenizer.model"))
        if found and not tokenizer:
            continue
        for path in sorted(folder.iterdir()):
            left = path.name in LEFT or path.name.endswith(".index.json")
            if path.suffix in KEPT and path.is_file() and not left:
                found.setdefault(path.name, path)
        if tokenizer:
            break
    if dtype is not None and "config.json" in found:
        config = json.loads(found["config.json"].read_text(encoding="utf-8"))
        said = torch_name(dtype_name(dtype))
        known = [key for key in ("dtype", "torch_dtype") if key in config] or ["torch_dtype"]
        found["config.json"] = json.dumps(config | dict.fromkeys(known, said), indent=2) + "\n"
    return found
