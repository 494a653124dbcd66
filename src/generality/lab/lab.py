"""The lab: one object through which a study gets its work done."""

from __future__ import annotations

import functools
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import nn

from generality.home import steps_home
from generality.lab.encoders import Encoder, NamedEncoder
from generality.lab.executors import InProcess, make_executor
from generality.lab.features import embed
from generality.lab.finetune import FineTuned, finetune
from generality.lab.fit import Fitted, fit
from generality.lab.generate import Network, generate_chunk, generate_named_chunk
from generality.lab.progress import ProgressBars
from generality.lab.replicate import Replicas, replicate, zero_head
from generality.lab.replicate_domains import DomainReplicas, replicate_domains
from generality.lab.sft import TunedLM, sft
from generality.lab.stacked import start
from generality.lab.steps import StepStore
from generality.lab.threads import available_cores, threads
from generality.lab.train import TrainConfig
from generality.models import fetch_model, resolve_device
from generality.models.identity import model_identity
from generality.models.prompt_response import encode_response, response_labels

Item = TypeVar("Item")
Result = TypeVar("Result")

_PACKAGES = (
    "generality", "torch", "transformers", "datasets", "accelerate", "peft", "numpy", "scipy",
    "scikit-learn",
)  # fmt: skip


class Lab:
    """Memoised steps, features computed once, replicas together, one training loop, executors.

    Everything a lab computes is kept below `home` and taken from there when the same thing is
    asked again, by this study or another, in this process or another.

    Args:
        device: "auto", "cpu", "cuda" or "mps".
        on: where `map` runs: "in-process", "processes:N", "ray" or "ray://host:port".
        home: folder of kept results; by default `$GENERALITY_HOME/steps`.
        progress: show progress on stderr for what takes over two seconds.
        command: what was typed to start this work, for the record of a run.

    >>> import tempfile
    >>> lab = Lab(home=Path(tempfile.mkdtemp()), device="cpu", progress=False)
    >>> [list(lab.seeds(3)), lab.step(pow, 2, 10), lab.step(pow, 2, 10), lab.steps.reused]
    [[0, 1, 2], 1024, 1024, 1]
    """

    def __init__(
        self,
        *,
        device: str = "auto",
        on: str = "in-process",
        home: Path | None = None,
        progress: bool = True,
        command: str = "",
    ) -> None:
        self.device = str(resolve_device(device))
        self.on = on
        self.executor = make_executor(on)
        self.steps = StepStore(Path(home) if home else steps_home())
        self.progress = ProgressBars(enabled=progress)
        self.command = command
        self._started = time.time()

    def seeds(self, count: int) -> range:
        """0, 1, 2, …: fixed before anyone looks."""
        return range(count)

    def step(
        self,
        function: Callable[..., Result],
        /,
        *args: Any,
        uncached: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Result:
        """Call a function of its arguments, or take the result it had before.

        The key is made of the function's code (and that of what it calls in the same project) and
        the content of its arguments. See `StepStore.compute` for what it may return.
        """
        result: Result = self.steps.compute(function, *args, uncached=uncached, **kwargs)
        return result

    def embed(
        self,
        model: str | Path | Encoder,
        data: Any,
        *,
        column: str = "text",
        layer: int | str | None = None,
        pooling: str | None = None,
        max_length: int = 256,
    ) -> Float[np.ndarray, "examples dim"]:
        """Features of a dataset (or a list of examples), mapped from disk.

        `model` is a name, a path or an `Encoder`; `layer` counts hidden states as transformers
        does (-1 the last) and nothing beyond it is computed.
        """
        encoder = model
        if isinstance(encoder, (str, Path)):
            self.fetch(str(model))
            encoder = _encoder(str(model), layer, pooling, max_length, self.device)
        is_dataset = hasattr(data, "select_columns")
        examples = data[column] if is_dataset else data
        content = data.select_columns([column]) if is_dataset else None
        name = model if isinstance(model, (str, Path)) else type(model).__name__
        with self.progress.task(f"Embedding {len(examples)} examples with {name}") as report:
            return embed(self.steps, encoder, examples, content=content, progress=report)

    def replicate(
        self, module: Any, inputs: Any, targets: Any, *, seeds: Sequence[int], **options: Any
    ) -> Replicas:
        """Many small trainings at once; see `generality.lab.replicate.replicate`. Kept."""
        with self.progress.task(f"Training {len(seeds)} replicas") as report:
            state = self.step(
                _replicate, module, inputs, targets, list(seeds), options,
                uncached={"progress": report},
            )  # fmt: skip
        template = module(seeds[0]) if not isinstance(module, nn.Module) else module
        return Replicas.from_state(template, state)

    def replicate_domains(
        self, module: Any, inputs: Any, labels: Any, rows: Any, *, seeds: Sequence[int],
        **options: Any,
    ) -> DomainReplicas:  # fmt: skip
        """Many small trainings over several domains each; see `replicate_domains`. Kept."""
        with self.progress.task(f"Training {len(seeds)} replicas over domains") as report:
            state = self.step(
                _replicate_domains, module, inputs, labels, rows, list(seeds), options,
                uncached={"progress": report},
            )  # fmt: skip
        return DomainReplicas.from_state(start(module, seeds[0]), state)

    def fetch(self, model: str) -> None:
        """Have a model's files on this machine, with a bar while they come."""
        if model != "bag-of-words":
            with self.progress.task(f"Fetching {model}") as report:
                fetch_model(model, progress=report)

    def probe(
        self,
        features: Float[np.ndarray, "examples dim"],
        rows: Int[np.ndarray, "seeds n"],
        targets: Float[np.ndarray, "seeds n classes"],
        **options: Any,
    ) -> Float[np.ndarray, "seeds examples classes"]:
        """Class probabilities of every example, by linear probes trained on each seed's rows.

        A probe is a linear layer without bias that starts at zero; all seeds train together, on
        soft targets. `options` (loss, learning_rate, epochs, …) go to `replicate`.
        """
        head = zero_head(features.shape[1], targets.shape[-1])
        seeds = self.seeds(len(rows))
        replicas = self.replicate(head, features, targets, rows=rows, seeds=seeds, **options)
        return replicas.predict_proba(features).numpy()

    def finetune(
        self,
        model: str,
        texts: Sequence[str],
        targets: Float[np.ndarray, "examples classes"],
        *,
        objective: Any,
        config: TrainConfig,
        predict: Mapping[str, Sequence[str]],
        seed: int,
        **options: Any,
    ) -> FineTuned:
        """Tune a text classifier and predict; see `generality.lab.finetune.finetune`. Kept.

        A training that was killed goes on from its last checkpoint.
        """
        self.fetch(model)
        arguments = {
            "model": model,
            "identity": model_identity(model),
            "texts": list(texts),
            "targets": np.asarray(targets, np.float32),
            "objective": objective,
            "config": config,
            "predict": {name: list(group) for name, group in predict.items()},
            "seed": seed,
            "device": self.device,
            **options,
        }
        description = f"Fine-tuning {model} on {len(texts)} texts"
        return FineTuned(**self._training(finetune, description, arguments))

    def fit(
        self,
        network: Callable[[int], nn.Module],
        inputs: Any,
        targets: Any,
        *,
        config: TrainConfig,
        seed: int,
        predict: Mapping[str, Any],
        **options: Any,
    ) -> Fitted:
        """Train one small network on inputs in memory and predict; see `generality.lab.fit`. Kept.

        `options`: objective, domains, augment, keep_weights. The network and the functions are
        named by their code and what they hold, so a changed architecture is another training.
        """
        arguments = {
            "network": network,
            "inputs": inputs,
            "targets": targets,
            "config": config,
            "seed": seed,
            "predict": dict(predict),
            "device": self.device,
            **options,
        }
        return Fitted(**self._training(fit, f"Training on {len(inputs)} examples", arguments))

    def sft(
        self,
        network: Network,
        prompts: Sequence[str],
        responses: Sequence[str],
        *,
        tokenizer: Any,
        config: TrainConfig,
        seed: int,
        loss_on: Literal["response", "all"] = "response",
        max_length: int | None = None,
        **options: Any,
    ) -> TunedLM:
        """Tune a causal language model on prompt → response; see `generality.lab.sft`. Kept.

        Prompt and response are tokenised as one text, with an end-of-sequence token, and cut at
        `max_length` tokens. `options`: weights, wrap, extra, keep.
        """
        pairs = zip(prompts, responses, strict=True)
        encoded = [encode_response(tokenizer, *pair, max_length=max_length) for pair in pairs]
        whole = loss_on == "all"
        arguments = {
            "network": network,
            "tokens": [tokens for tokens, _ in encoded],
            "labels": [response_labels(tokens, 0 if whole else start) for tokens, start in encoded],
            "config": config,
            "seed": seed,
            "device": self.device,
            **options,
        }
        return TunedLM(**self._training(sft, f"Tuning on {len(encoded)} responses", arguments))

    def generate(
        self,
        model: str | Network,
        prompts: Sequence[str],
        *,
        weights: Mapping[str, torch.Tensor] | None = None,
        tokenizer: Any = None,
        samples: int = 1,
        seed: int = 0,
        chunk: int = 256,
        **options: Any,
    ) -> list[list[str]]:
        """`samples` texts after each prompt, kept in chunks: a killed job repeats none of them.

        Args:
            model: a name as in `load_model`, or a network with its `weights` and `tokenizer`.
            chunk: texts kept at a time.
            options: of `generate_texts`: max_tokens, temperature, top_p, batch_size, ….

        Raises:
            ValueError: a network without weights or tokenizer.
        """
        if not isinstance(model, str) and (weights is None or tokenizer is None):
            raise ValueError("a network needs its weights and its tokenizer")
        asked = [prompt for prompt in prompts for _ in range(samples)]
        texts: list[str] = []
        with self.progress.task(f"Writing {len(asked)} texts") as report:
            for place in range(0, len(asked), chunk):
                part = asked[place : place + chunk]
                said = {**options, "seed": seed + (place << 16)}
                if isinstance(model, str):
                    self.fetch(model)
                    texts += self.step(
                        generate_named_chunk, model, model_identity(model), part, said, self.device
                    )
                else:
                    texts += self.step(generate_chunk, model, weights or {}, tokenizer, part, said)
                report(len(texts), len(asked))
        return [texts[place : place + samples] for place in range(0, len(texts), samples)]

    def _training(
        self, function: Callable[..., Result], description: str, arguments: dict[str, Any]
    ) -> Result:
        """A kept step that can be resumed: its checkpoints go when its result is there."""
        key = self.steps.key(function, **arguments)
        checkpoint = self.steps.partial(key)
        with self.progress.task(description) as report:
            uncached = {"checkpoint": checkpoint, "progress": report}
            result = self.step(function, uncached=uncached, **arguments)
        if self.steps.folder(key).exists():
            shutil.rmtree(checkpoint, ignore_errors=True)
        return result

    def map(
        self,
        function: Callable[[Lab, Item], Result],
        items: Sequence[Item],
        *,
        description: str = "",
    ) -> Iterator[Result]:
        """`function(lab, item)` for every item, where `on` says; results in the items' order.

        The function must be importable (module level). Workers have a lab of their own on the
        same kept results, and one fair share of the threads.
        """
        with self.progress.task(description or function.__name__) as report:
            if isinstance(self.executor, InProcess):
                calls = self.executor.map(function, items, lambda: self)
                for done, result in enumerate(calls, 1):
                    yield result
                    report(done, len(items))
                return
            setup = functools.partial(Lab, device=self.device, home=self.steps.root, progress=False)
            counted = functools.partial(_counted, function)
            for done, (result, computed, reused) in enumerate(
                self.executor.map(counted, items, setup), 1
            ):
                self.steps.computed += computed
                self.steps.reused += reused
                yield result
                report(done, len(items))

    def environment(self) -> dict[str, Any]:
        """What this lab ran on and how much it computed, for the record of a run."""
        return {
            "python": platform.python_version(),
            "packages": _versions(),
            "machine": {
                "system": platform.platform(terse=True),
                "processor": _processor(),
                "cores": available_cores(),
            },
            "device": self.device,
            "on": self.on,
            "command": self.command,
            "threads": torch.get_num_threads(),
            "started": datetime.fromtimestamp(self._started, UTC).isoformat(timespec="seconds"),
            "seconds": round(time.time() - self._started, 2),
            "steps": {"computed": self.steps.computed, "reused": self.steps.reused},
        }


def _replicate(
    module: Any, inputs: Any, targets: Any, seeds: list[int], options: dict[str, Any], progress: Any
) -> dict[str, Any]:
    """The memoised step behind `Lab.replicate`: small trainings, so one thread."""
    with threads(1):
        return replicate(
            module, inputs, targets, seeds=seeds, progress=progress, **options
        ).state_dict()


def _replicate_domains(
    module: Any, inputs: Any, labels: Any, rows: Any, seeds: list[int], options: dict[str, Any],
    progress: Any,
) -> dict[str, Any]:  # fmt: skip
    """The memoised step behind `Lab.replicate_domains`, on one thread likewise."""
    with threads(1):
        return replicate_domains(
            module, inputs, labels, rows, seeds=seeds, progress=progress, **options
        ).state_dict()


def _counted(function: Callable[[Lab, Any], Any], lab: Lab, item: Any) -> tuple[Any, int, int]:
    computed, reused = lab.steps.computed, lab.steps.reused
    result = function(lab, item)
    return result, lab.steps.computed - computed, lab.steps.reused - reused


@functools.lru_cache(maxsize=2)
def _encoder(
    model: str, layer: int | str | None, pooling: str | None, max_length: int, device: str
) -> Encoder:
    return NamedEncoder(model, layer=layer, pooling=pooling, max_length=max_length, device=device)


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
