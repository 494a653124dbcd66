import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import (
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from generality.errors import UserError
from generality.models import (
    BagOfWords,
    EfficientNetLite,
    HiddenStatePooler,
    fetch_model,
    hidden_state,
    load_model,
    load_tokenizer,
    resolve_device,
)

SIZES: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "max_position_embeddings": 32,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


def llama() -> LlamaForCausalLM:
    return LlamaForCausalLM(LlamaConfig(**SIZES, num_key_value_heads=1)).eval()


def bert() -> BertModel:
    return BertModel(BertConfig(**SIZES)).eval()


def gpt2() -> GPT2LMHeadModel:
    config = GPT2Config(
        vocab_size=40,
        n_embd=16,
        n_layer=3,
        n_head=2,
        n_positions=32,
        bos_token_id=1,
        eos_token_id=2,
    )
    return GPT2LMHeadModel(config).eval()


def neox() -> GPTNeoXModel:
    return GPTNeoXModel(GPTNeoXConfig(**SIZES)).eval()


def distilbert() -> DistilBertModel:
    config = DistilBertConfig(
        vocab_size=40, dim=16, hidden_dim=32, n_layers=3, n_heads=2, max_position_embeddings=32
    )
    return DistilBertModel(config).eval()


BODIES = [llama, bert, gpt2, neox, distilbert]


def save_tokenizer(folder: Path) -> None:
    words = {"[PAD]": 0, "[BOS]": 1, "[EOS]": 2, "[UNK]": 3, "good": 4, "bad": 5, "film": 6}
    backend = Tokenizer(WordLevel(words, unk_token="[UNK]"))
    backend.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="[EOS]", unk_token="[UNK]"
    ).save_pretrained(folder)


# names, folders, devices


def test_devices():
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device("auto").type in ("cpu", "cuda", "mps")
    with pytest.raises(UserError, match="Did you mean 'cuda'"):
        resolve_device("cude")
    with pytest.raises(UserError, match="no device 'cuda:99'"):
        resolve_device("cuda:99")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("minilm", "Did you mean 'minilm-l6'"),
        ("vader-sentiment", "There is no model"),
        ("org/name", "hf:org/name"),
        ("./nowhere", "no model folder './nowhere'"),
        ("bag-of-words", "no files"),
        ("hf:not a name!", "cannot be fetched"),
    ],
)
def test_a_name_that_is_no_model_is_said_plainly(name: str, message: str):
    with pytest.raises(UserError, match=message):
        fetch_model(name)


def test_a_folder_without_config_is_no_model(tmp_path: Path):
    with pytest.raises(UserError, match=r"no config\.json"):
        fetch_model(str(tmp_path))


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_broken_config_is_said_plainly(tmp_path: Path, text: str):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=r"config\.json of the model"):
        load_model(str(tmp_path))


@pytest.mark.parametrize("make", [llama, gpt2, bert])
def test_a_local_folder_loads_as_what_it_is(tmp_path: Path, make: Callable[[], Any]):
    saved = make()
    saved.save_pretrained(tmp_path)
    loaded = load_model(str(tmp_path), device="cpu", dtype=torch.float64)
    assert type(loaded) is type(saved)
    assert not loaded.training
    assert {p.dtype for p in loaded.parameters()} == {torch.float64}
    for name, value in saved.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], value.double())


def test_pickled_weights_are_never_read(tmp_path: Path):
    bert().config.save_pretrained(tmp_path)
    torch.save(bert().state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="Convert it to safetensors"):
        load_model(str(tmp_path))


def test_code_shipped_with_a_model_is_never_run(tmp_path: Path):
    bert().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.C", "AutoModel": "mine.M"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    ran = tmp_path / "ran"
    (tmp_path / "mine.py").write_text(f"open({str(ran)!r}, 'w')")
    with pytest.raises(UserError, match="cannot be loaded"):
        load_model(str(tmp_path))
    assert not ran.exists()


def test_a_tokenizer_without_a_pad_token_pads_with_end_of_text(tmp_path: Path):
    bert().save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    tokenizer = load_tokenizer(str(tmp_path))
    assert tokenizer.pad_token == "[EOS]"
    assert tokenizer("good film")["input_ids"] == [4, 6]


def test_a_model_without_a_tokenizer_is_said_plainly(tmp_path: Path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="has no tokenizer: save the one it was trained with"):
        load_tokenizer(str(tmp_path))
    with pytest.raises(UserError, match="no tokenizer"):
        load_tokenizer("bag-of-words")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("nan", "'model.norm.weight' of the model .* has numbers that are not finite"),
        ("lack", "is not whole: its files lack 'model.norm.weight'"),
        ("cut", "cannot be loaded: .* Fetch or save it again"),
    ],
)
def test_damaged_weights_are_refused_by_name(tmp_path: Path, damage: str, message: str):
    llama().save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    if damage == "nan":
        weights["model.norm.weight"][3] = torch.nan
    elif damage == "lack":
        del weights["model.norm.weight"]
    save_file(weights, file, metadata={"format": "pt"})
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:900])
    with pytest.raises(UserError, match=message):
        load_model(str(tmp_path), device="cpu")


# hidden states


@pytest.mark.parametrize("make", BODIES)
@pytest.mark.parametrize("layer", range(-4, 4))
def test_hidden_state_is_that_of_transformers_and_runs_no_block_beyond(
    make: Callable[[], Any], layer: int
):
    body = make()
    ids = torch.randint(0, 40, (2, 7), generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[1] * 7, [1] * 4 + [0] * 3])
    inner = getattr(body, "base_model", body)
    expected = inner(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states[
        layer
    ]

    stacks = [m for m in inner.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == 3]
    ran: list[int] = []
    for number, block in enumerate(stacks[0]):
        block.register_forward_hook(lambda *_, number=number: ran.append(number))
    got = hidden_state(body, layer, input_ids=ids, attention_mask=mask)
    torch.testing.assert_close(got, expected, rtol=0, atol=0)
    assert ran == list(range(layer % 4))
    # the exception that ends the pass early leaves the body as it was
    again = inner(input_ids=ids, attention_mask=mask, output_hidden_states=True)
    torch.testing.assert_close(again.hidden_states[layer], expected, rtol=0, atol=0)


def test_gradients_flow_to_the_blocks_that_ran_only():
    body = llama()
    ids = torch.arange(6)[None]
    hidden_state(body, 2, input_ids=ids, attention_mask=torch.ones_like(ids)).sum().backward()
    reached = [block.mlp.up_proj.weight.grad is not None for block in body.model.layers]
    assert reached == [True, True, False]
    assert body.model.embed_tokens.weight.grad is not None


@pytest.mark.parametrize("layer", [4, -5])
def test_a_layer_that_is_not_there(layer: int):
    with pytest.raises(ValueError, match=r"layer is in \[-4, 3\]"):
        hidden_state(bert(), layer, input_ids=torch.tensor([[1]]))


@settings(max_examples=30, deadline=None)
@given(
    pooling=st.sampled_from(["mean", "last", "cls"]),
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    padding=st.integers(0, 3),
    seed=st.integers(0, 1000),
)
def test_pooling_ignores_padding_on_either_side(
    pooling: str, lengths: list[int], padding: int, seed: int
):
    generator = torch.Generator().manual_seed(seed)
    pool = HiddenStatePooler(pooling)
    width = max(lengths) + padding
    texts = [torch.randn(length, 5, generator=generator) for length in lengths]
    expected = torch.stack(
        [{"mean": text.mean(0), "last": text[-1], "cls": text[0]}[pooling] for text in texts]
    )
    for side in ("left", "right"):
        hidden = torch.full((len(texts), width, 5), 1e9)
        mask = torch.zeros(len(texts), width, dtype=torch.long)
        for row, text in enumerate(texts):
            where = slice(0, len(text)) if side == "right" else slice(width - len(text), width)
            hidden[row, where], mask[row, where] = text, 1
        if pooling == "mean":
            hidden[mask == 0] = 7.0  # finite, or 0 · ∞ would say nothing
        torch.testing.assert_close(pool(hidden, mask), expected)


def test_pooling_takes_a_text_without_tokens_and_refuses_unknown_ways():
    for pooling in ("mean", "last", "cls"):
        pooled = HiddenStatePooler(pooling)(torch.ones(1, 3, 2), torch.zeros(1, 3).long())
        assert pooled.tolist() == [[0.0, 0.0]]
    with pytest.raises(ValueError, match="mean, last, cls"):
        HiddenStatePooler("max")


# bag of words


def test_a_bag_has_signed_log_counts_at_their_hashes_scaled_to_length_one():
    bag = BagOfWords(num_features=512, ngrams=1)
    one, two = bag.encode(["film", "good"])
    both = bag.encode(["Film! good, good. GOOD"])[0]
    expected = np.log(2) * one + np.log(4) * two
    np.testing.assert_allclose(both, expected / np.linalg.norm(expected), atol=1e-6)
    assert bag.encode([]).shape == (0, 512)


def test_a_bag_knows_the_order_of_neighbours():
    texts = ["not good but bad", "not bad but good"]
    single, pairs = BagOfWords(ngrams=1).encode(texts), BagOfWords(ngrams=2).encode(texts)
    np.testing.assert_allclose(single[0], single[1], atol=1e-6)
    assert np.abs(pairs[0] - pairs[1]).max() > 0.1


def test_a_bag_is_a_model_by_name():
    bag = load_model("bag-of-words")
    assert isinstance(bag, BagOfWords)
    assert "num_features=16384" in repr(bag)
    with pytest.raises(ValueError, match="at least 1"):
        BagOfWords(0)


# the pinned weights

# First five logits and the likeliest class of sin(0.01 · i) over the pixels i of one image, by the
# implementation that shipped with the weights (efficientnet_lite_pytorch 0.1.0, torch 2.13, CPU).
LOGITS = {
    0: ([-1.454248, -0.258234, -1.776282, -2.690340, -0.211670], 905),
    1: ([-0.863234, 0.727881, -0.842653, -1.147438, -1.058440], 92),
    2: ([-0.731881, 0.584808, -0.884147, -1.751237, -0.164423], 916),
}


@pytest.mark.parametrize("variant", [0, 1, 2])
def test_efficientnet_lite_has_the_logits_of_the_original(variant: int):
    model = load_model(f"efficientnet-lite{variant}", device="cpu")
    assert isinstance(model, EfficientNetLite)
    size = model.image_size
    image = torch.sin(torch.arange(3 * size * size).reshape(1, 3, size, size) * 0.01)
    with torch.inference_mode():
        logits = model(image)[0]
        headed = model._fc(model.features(image))[0]
    expected, best = LOGITS[variant]
    torch.testing.assert_close(logits[:5], torch.tensor(expected), atol=1e-4, rtol=0)
    assert logits.argmax() == best
    torch.testing.assert_close(headed, logits)


def test_efficientnet_lite_has_three_variants():
    with pytest.raises(ValueError, match="not 3"):
        EfficientNetLite(3)


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return torch.cosine_similarity(a, b, dim=0).item()


def test_minilm_puts_paraphrases_together():
    body, tokenizer = load_model("minilm-l6", device="cpu"), load_tokenizer("minilm-l6")
    texts = ["A man is eating food.", "Someone has a meal.", "The stock market fell today."]
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.inference_mode():
        hidden = hidden_state(body, -1, **batch)
        states = body(**batch, output_hidden_states=True).hidden_states
        for layer in (0, 2, -1):
            torch.testing.assert_close(
                hidden_state(body, layer, **batch), states[layer], rtol=0, atol=0
            )
    meal, paraphrase, other = HiddenStatePooler("mean")(hidden, batch["attention_mask"])
    assert cosine(meal, paraphrase) > 0.5 > 0.2 > cosine(meal, other)


def test_smollm2_knows_the_capital_of_france():
    model, tokenizer = load_model("smollm2-135m", device="cpu"), load_tokenizer("smollm2-135m")
    batch = tokenizer("The capital of France is", return_tensors="pt")
    with torch.inference_mode():
        tokens = model.generate(**batch, max_new_tokens=1, do_sample=False)
        states = model(**batch, output_hidden_states=True).hidden_states
        for layer in (0, 5, -1):
            torch.testing.assert_close(
                hidden_state(model, layer, **batch), states[layer], rtol=0, atol=0
            )
    assert tokenizer.decode(tokens[0]).endswith("France is Paris")


def test_smollm2_splits_digits_pads_and_chats():
    tokenizer = load_tokenizer("smollm2-135m")
    assert tokenizer.tokenize("in 1984") == ["in", "Ġ", "1", "9", "8", "4"]
    assert (tokenizer.pad_token, tokenizer.model_max_length) == ("<|im_end|>", 8192)
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False)
    assert "<|im_start|>user\nHi<|im_end|>" in chat


@pytest.mark.slow
def test_smollm2_needs_neither_gguf_nor_sentencepiece_once_converted():
    fetch_model("smollm2-135m")
    code = """
import sys
sys.modules["gguf"] = sys.modules["sentencepiece"] = None
from generality.models import load_model, load_tokenizer
load_tokenizer("smollm2-135m")
print(type(load_model("smollm2-135m", device="cpu")).__name__)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "LlamaForCausalLM\n", done.stderr


def test_importing_the_room_is_cheap():
    code = "import sys, generality.models; print({'torch', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
