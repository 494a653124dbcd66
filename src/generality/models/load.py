"""Models and tokenizers by name: pinned, on the hub, or in a folder."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from safetensors import SafetensorError
from torch import nn

from generality.errors import UserError, unknown
from generality.models.artifacts import ARTIFACTS, fetch
from generality.models.device import resolve_device
from generality.models.quiet import quiet

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from generality.models.download import Progress

MODELS = (*(name for name, artifact in ARTIFACTS.items() if artifact.kind == "model"),)
"""Names of the pinned models."""

PACKED = "generality-packed"  # by `generality compress --method l4q`
CAUSAL = ("ForCausalLM", "LMHeadModel")
"""How the class names of causal language models end."""

HUB_FILES = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja")
"""What is taken from a hub repository: never pickles, never code."""

HUB_COPIES = ("onnx/*", "openvino/*", "original/*", "consolidated*")
"""The same weights once more in other forms, which are left there."""

ADAPTER = ("adapter_config.json",)

HUB_FAILURES = (OSError, HfHubHTTPError, HFValidationError)


def fetch_model(name: str, *, adapters: bool = False, progress: Progress | None = None) -> Path:
    """The folder of a model, with its `config.json`, safetensors and tokenizer.

    Args:
        name: a pinned name (see `MODELS`), `hf:org/name` on the hub (kept in the hub's own cache),
            or a folder with a `config.json`.
        adapters: also take the folder of an adapter, with its `adapter_config.json`.
        progress: called with (bytes done, bytes in all) while a pinned model downloads.

    Raises:
        UserError: there is no such model, or it cannot be had.
    """
    if name in MODELS:
        return fetch(name, progress=progress)
    if name.startswith("hf:"):
        return _from_hub(name, ("config.json", *ADAPTER) if adapters else ("config.json",))
    if name == "bag-of-words":
        raise UserError("'bag-of-words' computes its features from the text; it has no files.")
    folder = Path(name).expanduser()
    if folder.is_dir():
        if any((folder / file).is_file() for file in ("config.json", *ADAPTER * adapters)):
            return folder
        raise UserError(f"The folder '{name}' holds no model: it has no config.json.")
    if os.sep in name or name.startswith("."):
        raise UserError(
            f"There is no model folder '{name}'. A model on the hub is written hf:org/name."
        )
    raise unknown("model", name, [*MODELS, "bag-of-words", "hf:org/name"])


def load_model(name: str, *, device: str = "auto", dtype: torch.dtype = torch.float32) -> nn.Module:
    """A model in eval mode on `device`.

    A causal language model keeps its head (`AutoModelForCausalLM`), anything else is loaded as
    `AutoModel`; EfficientNet-Lite is `EfficientNetLite`, and "bag-of-words" is `BagOfWords`.
    Code shipped with a model is never run, and pickled weights are never read.

    Args:
        name: as in `fetch_model`, or "bag-of-words".
        device: "auto", "cpu", "cuda" or "mps".
        dtype: of the weights.

    Raises:
        UserError: there is no such model, it cannot be had, or it cannot be loaded safely.
    """
    where = resolve_device(device)
    if name == "bag-of-words":
        from generality.models.bag_of_words import BagOfWords

        return BagOfWords()
    folder = fetch_model(name)
    config = _config(folder, name)
    architecture = (config.get("architectures") or [""])[0]
    if architecture == "EfficientNetLite":
        from generality.models.efficientnet_lite import EfficientNetLite

        return EfficientNetLite.from_folder(folder).to(where, dtype).eval()
    if not any(folder.glob("*.safetensors")):
        raise UserError(
            f"The model '{name}' has no safetensors weights, and pickled ones are not read, because"
            " a pickle can run any code. Convert it to safetensors first (save_pretrained does)."
        )
    from transformers import AutoModel, AutoModelForCausalLM

    if (config.get("quantization_config") or {}).get("quant_method") == PACKED:
        import generality.models.packed_checkpoint  # noqa: F401 - tells transformers of it

    causal = architecture.endswith(CAUSAL)
    auto: Any = AutoModelForCausalLM if causal else AutoModel
    try:
        with quiet(warnings=False):
            # left unset, transformers asks at the terminal whether to run a repository's code
            model, found = auto.from_pretrained(
                folder, dtype=dtype, use_safetensors=True, trust_remote_code=False,
                output_loading_info=True,
            )  # fmt: skip
    except (ValueError, KeyError, OSError, SafetensorError) as error:
        reason = str(error).strip().split("\n")[0].rstrip(".")
        raise UserError(
            f"The model '{name}' cannot be loaded: {reason}. Fetch or save it again."
        ) from error
    # transformers draws them at random; an encoder's pooler is not used here, and often not saved
    if lacking := [key for key in found["missing_keys"] if causal or "pooler" not in key]:
        raise UserError(
            f"The model '{name}' is not whole: its files lack '{min(lacking)}'. Fetch or save it "
            "again."
        )
    _check_finite(model, name)
    return model.to(where).eval()


def published(name: str, seed: int = 0) -> nn.Module:
    """`load_model` on the CPU, as trainings take a network: a function of a seed, here of none."""
    return load_model(name, device="cpu")


def _check_finite(model: nn.Module, name: str) -> None:
    """Refuse weights that hold NaN or infinity: all that the model says would be nothing."""
    for tensor, weight in model.named_parameters():
        # a sum needs no second copy of the weights; it may also overflow, hence the second look
        if not weight.sum(dtype=torch.float32).isfinite() and not weight.isfinite().all():
            raise UserError(
                f"'{tensor}' of the model '{name}' has numbers that are not finite: its training "
                "or its file went wrong; take an earlier or another copy."
            )


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a model, with a pad token (the end-of-text token where it has none).

    Raises:
        UserError: there is no such model, it cannot be had, or it has no tokenizer.
    """
    if name == "bag-of-words":
        raise UserError("'bag-of-words' has no tokenizer: give its encode() the texts themselves.")
    folder = fetch_model(name)
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (ValueError, KeyError, OSError) as error:
        if not any(any(folder.glob(name)) for name in ("*token*", "vocab*", "*.model")):
            raise UserError(
                f"The folder of the model '{name}' has no tokenizer: save the one it was trained "
                "with there (tokenizer.save_pretrained)."
            ) from error
        reason = str(error).strip().split("\n")[0].rstrip(": ")
        raise UserError(f"The model '{name}' has no tokenizer that loads: {reason}") from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    return tokenizer


def _from_hub(name: str, wanted: tuple[str, ...] = ("config.json",)) -> Path:
    from huggingface_hub import snapshot_download

    repository = name.removeprefix("hf:")
    try:
        found = snapshot_download(
            repository, allow_patterns=list(HUB_FILES), ignore_patterns=list(HUB_COPIES)
        )
    except HUB_FAILURES as error:
        reason = str(error).strip().split("\n")[0]
        raise UserError(f"The model '{name}' cannot be fetched from the hub: {reason}") from error
    folder = Path(found)
    if not any((folder / file).is_file() for file in wanted):
        raise UserError(f"The hub repository '{repository}' holds no model: it has no config.json.")
    return folder


def _config(folder: Path, name: str) -> dict[str, Any]:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"The config.json of the model '{name}' is not valid JSON.") from error
    if not isinstance(config, dict):
        raise UserError(f"The config.json of the model '{name}' is not an object.")
    return config
