"""Backbones small enough to build in a test: random weights, a vocabulary of a few words."""

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    ResNetConfig,
    ResNetModel,
)

WORDS = "the a film book is was not very good bad long short and but".split()


def tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[EOS]", *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]", eos_token="[EOS]"
    )


def bert(seed: int = 0, positions: int = 64) -> BertModel:
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(WORDS) + 3, hidden_size=16, num_hidden_layers=3, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=positions,
    )  # fmt: skip
    return BertModel(config, add_pooling_layer=False).eval()


def llama(seed: int = 0) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(WORDS) + 3, hidden_size=16, num_hidden_layers=3, num_attention_heads=2,
        num_key_value_heads=1, intermediate_size=32, max_position_embeddings=64,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def resnet(seed: int = 0) -> ResNetModel:
    """An image network of eight features."""
    torch.manual_seed(seed)
    return ResNetModel(
        ResNetConfig(embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic")
    ).eval()


def texts(count: int, longest: int = 20, seed: int = 0) -> list[str]:
    generator = torch.Generator().manual_seed(seed)

    def some(high: int) -> int:
        return int(torch.randint(high, (1,), generator=generator))

    return [
        " ".join(WORDS[some(len(WORDS))] for _ in range(1 + some(longest))) for _ in range(count)
    ]
