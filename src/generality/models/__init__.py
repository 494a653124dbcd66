"""Loaders and small reference networks.

What belongs here: pinned artifacts and how they are fetched, models by name, the heads and
pooling that turn a body into a classifier, reference networks of a page or two. What does not:
training (the lab's), methods (they have rooms of their own), data beyond fetching it.

To add a pinned model or data set: an `Artifact` in `artifacts.py` (project, version, file,
sha256, size, licence), a line in its test. To add a network: a file named after it, an
`nn.Module` with shapes in its docstring, a parity test, a line in each list below.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from generality.lazy import lazy_names

if TYPE_CHECKING:
    from generality.models.artifacts import ARTIFACTS, Artifact, fetch
    from generality.models.bag_of_words import BagOfWords
    from generality.models.bpe_tokenizers import bpe_tokenizer
    from generality.models.chat import Chat, EndpointChat, LocalChat, Message, RecordedChat, ask
    from generality.models.conv_nets import MnistCNN, TinyConvNet
    from generality.models.device import resolve_device
    from generality.models.domain_adversarial import DomainAdversarial, fedka_digits
    from generality.models.efficientnet_lite import EfficientNetLite
    from generality.models.featurized import Featurized, mlp
    from generality.models.from_sklearn import sklearn_mlp
    from generality.models.generation import generate_texts, stream_tokens
    from generality.models.hidden_states import HiddenStatePooler, hidden_state
    from generality.models.load import fetch_model, load_model, load_tokenizer
    from generality.models.lora_alone import adapters_alone, lora_network
    from generality.models.multi_head import MultiHead, combine_heads, entropy_weights
    from generality.models.named_networks import (
        hidden_network,
        image_body,
        image_network,
        named_network,
    )
    from generality.models.prompt_response import encode_response
    from generality.models.teacher_topk import teacher_topk
    from generality.models.text_classifier import TextClassifier
    from generality.models.tiny_decoders import tiny_decoder
    from generality.models.token_alignment import (
        align_tokens,
        alignment_cost,
        project_topk,
        topk_columns,
    )
    from generality.models.two_towers import TwoTowers

__all__ = [
    "ARTIFACTS",
    "Artifact",
    "BagOfWords",
    "Chat",
    "DomainAdversarial",
    "EfficientNetLite",
    "EndpointChat",
    "Featurized",
    "HiddenStatePooler",
    "LocalChat",
    "Message",
    "MnistCNN",
    "MultiHead",
    "RecordedChat",
    "TextClassifier",
    "TinyConvNet",
    "TwoTowers",
    "adapters_alone",
    "align_tokens",
    "alignment_cost",
    "ask",
    "bpe_tokenizer",
    "combine_heads",
    "encode_response",
    "entropy_weights",
    "fedka_digits",
    "fetch",
    "fetch_model",
    "generate_texts",
    "hidden_network",
    "hidden_state",
    "image_body",
    "image_network",
    "load_model",
    "load_tokenizer",
    "lora_network",
    "mlp",
    "named_network",
    "project_topk",
    "resolve_device",
    "sklearn_mlp",
    "stream_tokens",
    "teacher_topk",
    "tiny_decoder",
    "topk_columns",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "ARTIFACTS": "artifacts",
        "Artifact": "artifacts",
        "BagOfWords": "bag_of_words",
        "Chat": "chat",
        "EndpointChat": "chat",
        "LocalChat": "chat",
        "Message": "chat",
        "RecordedChat": "chat",
        "ask": "chat",
        "bpe_tokenizer": "bpe_tokenizers",
        "DomainAdversarial": "domain_adversarial",
        "EfficientNetLite": "efficientnet_lite",
        "Featurized": "featurized",
        "HiddenStatePooler": "hidden_states",
        "MnistCNN": "conv_nets",
        "MultiHead": "multi_head",
        "TextClassifier": "text_classifier",
        "TwoTowers": "two_towers",
        "TinyConvNet": "conv_nets",
        "align_tokens": "token_alignment",
        "alignment_cost": "token_alignment",
        "combine_heads": "multi_head",
        "entropy_weights": "multi_head",
        "fedka_digits": "domain_adversarial",
        "encode_response": "prompt_response",
        "fetch": "artifacts",
        "fetch_model": "load",
        "generate_texts": "generation",
        "hidden_state": "hidden_states",
        "hidden_network": "named_networks",
        "image_body": "named_networks",
        "image_network": "named_networks",
        "named_network": "named_networks",
        "load_model": "load",
        "load_tokenizer": "load",
        "adapters_alone": "lora_alone",
        "lora_network": "lora_alone",
        "mlp": "featurized",
        "project_topk": "token_alignment",
        "topk_columns": "token_alignment",
        "resolve_device": "device",
        "sklearn_mlp": "from_sklearn",
        "stream_tokens": "generation",
        "teacher_topk": "teacher_topk",
        "tiny_decoder": "tiny_decoders",
    },
)
