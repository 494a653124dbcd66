"""Backbones small enough to build in a test: random weights, a vocabulary of a few words."""

import json
from pathlib import Path

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


def clip(folder: Path, seed: int = 0) -> str:
    """A folder as CLIP's own are: two towers of 16 pixels and of letters, with its processor."""
    from transformers import (
        CLIPConfig,
        CLIPImageProcessor,
        CLIPModel,
        CLIPProcessor,
        CLIPTokenizer,
    )

    torch.manual_seed(seed)
    letters = [chr(code) for code in range(33, 127)]
    pieces = [*letters, *(f"{letter}</w>" for letter in letters)]
    vocabulary = {piece: i for i, piece in enumerate([*pieces, "<|startoftext|>", "<|endoftext|>"])}
    start, end = len(pieces), len(pieces) + 1
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary |= {"do": end + 1, "dog</w>": end + 2}
    (folder / "merges.txt").write_text("#version: 0.2\nd o\ndo g</w>\n")
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {"vocab_size": end + 3, "max_position_embeddings": 40, "bos_token_id": start}
    config = CLIPConfig(
        text_config={**sizes, **text, "eos_token_id": end, "intermediate_size": 32},
        vision_config={**sizes, "image_size": 16, "patch_size": 8, "intermediate_size": 32},
        projection_dim=12,
    )
    CLIPModel(config).save_pretrained(folder)
    pictures = CLIPImageProcessor(
        size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}, do_center_crop=True
    )
    CLIPProcessor(pictures, CLIPTokenizer.from_pretrained(folder)).save_pretrained(folder)
    return str(folder)


def texts(count: int, longest: int = 20, seed: int = 0) -> list[str]:
    generator = torch.Generator().manual_seed(seed)

    def some(high: int) -> int:
        return int(torch.randint(high, (1,), generator=generator))

    return [
        " ".join(WORDS[some(len(WORDS))] for _ in range(1 + some(longest))) for _ in range(count)
    ]
