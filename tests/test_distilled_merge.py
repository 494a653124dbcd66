import json

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import tiny_models
from generality.errors import UserError
from generality.lab import Lab
from generality.models import encode_response, load_model, load_tokenizer
from generality.training.distilled_merge import Fusion, merge_by_distillation, read_pairs

PROMPTS = [f"the film was {word}" for word in tiny_models.WORDS] * 3
RESPONSES = ["very good and not long"] * len(PROMPTS)


def other_tokenizer() -> PreTrainedTokenizerFast:
    """The same words under other numbers."""
    vocabulary = {word: i for i, word in enumerate([*reversed(tiny_models.WORDS), "<e>", "<u>"])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<u>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<u>", eos_token="<e>")


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A pivot that knows nothing, and a model of another build and tokenizer that knows it all."""
    folder = tmp_path_factory.mktemp("pair")
    tiny_models.llama().to(torch.bfloat16).save_pretrained(folder / "pivot")
    tiny_models.tokenizer().save_pretrained(folder / "pivot")
    tokenizer = other_tokenizer()
    torch.manual_seed(1)
    source = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=24,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=24,
            max_position_embeddings=32,
        )
    )
    rows = [encode_response(tokenizer, *both)[0] for both in zip(PROMPTS, RESPONSES, strict=True)]
    batch = torch.tensor(rows)
    optimizer = torch.optim.Adam(source.parameters(), 1e-2)
    for _ in range(40):
        optimizer.zero_grad()
        source(batch, labels=batch).loss.backward()
        optimizer.step()
    source.save_pretrained(folder / "source")
    tokenizer.save_pretrained(folder / "source")
    return [str(folder / "pivot"), str(folder / "source")]


def test_a_model_with_another_tokenizer_teaches_the_first(pair, tmp_path):
    lab = Lab(home=tmp_path / "steps", device="cpu", progress=False)
    how = Fusion(lam=0.5, learning_rate=1e-2, epochs=6, batch_size=8)
    report = merge_by_distillation(
        pair, tmp_path / "one", PROMPTS, RESPONSES, how, lab=lab, control=True
    )
    pivot, source = report["models"]
    assert (pivot["gave"], source["gave"]) == (0, 1)
    assert source["loss"] < report["after"] < report["before"] / 2
    assert report["control"] < report["before"] / 2
    assert report["examples"] + report["held_out"] == len(PROMPTS)
    assert report["left_out"] == 0
    merged = load_model(str(tmp_path / "one"), dtype=torch.bfloat16)
    assert merged.config.dtype == torch.bfloat16  # as the pivot's files
    assert load_tokenizer(str(tmp_path / "one")).get_vocab() == tiny_models.tokenizer().get_vocab()
    computed = lab.steps.computed
    again = merge_by_distillation(
        pair, tmp_path / "two", PROMPTS, RESPONSES, how, lab=lab, control=True
    )
    assert lab.steps.computed == computed  # nothing is done twice
    assert again == report
    same = (tmp_path / where / "model.safetensors" for where in ("one", "two"))
    assert len({path.read_bytes() for path in same}) == 1


def test_all_weight_on_the_true_token_is_plain_tuning(pair, tmp_path):
    lab = Lab(home=tmp_path / "steps", device="cpu", progress=False)
    how = Fusion(lam=1.0, learning_rate=1e-2, epochs=2, batch_size=8)
    report = merge_by_distillation(
        pair, tmp_path / "one", PROMPTS, RESPONSES, how, lab=lab, control=True
    )
    assert report["after"] == pytest.approx(report["control"], abs=1e-4)


def test_texts_too_long_for_the_pivot_are_left_out_and_counted(pair, tmp_path):
    lab = Lab(home=tmp_path / "steps", device="cpu", progress=False)
    long = ["good " * 70 + "bad"] * 5
    report = merge_by_distillation(
        pair, tmp_path / "one", [*PROMPTS, *["the"] * 5], [*RESPONSES, *long], lab=lab
    )
    assert report["left_out"] == 5
    assert np.isfinite(report["after"])
    with pytest.raises(UserError, match="too few"):
        merge_by_distillation(pair, tmp_path / "two", ["the"] * 10, long * 2, lab=lab)


def test_the_command(pair, tmp_path, generality):
    data = tmp_path / "data.jsonl"
    lines = [{"prompt": p, "response": r} for p, r in zip(PROMPTS, RESPONSES, strict=True)]
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    out = tmp_path / "out"
    said = ["merge", *pair, "-o", out, "--method", "distill"]
    told = generality(*said, "--data", data, "--json")
    assert told.code == 0, told.err
    assert json.loads(told.out)["models"][1]["gave"] == 1
    assert "distributions" in (out / "README.md").read_text()
    for wrong, message in (
        ([], "--data"),
        (["--data", data, "--lambda", "2"], "lambda is in"),
        (["--data", data, "--density", "0.5"], "has no use for"),
        (["--data", data, "--learning-rate", "0"], "--learning-rate is above 0, not 0.0."),
        (["--data", data], "there already"),
    ):
        told = generality(*said, *wrong)
        assert told.code == 2
        assert message in " ".join(told.err.split())
    told = generality("merge", *pair, "-o", tmp_path / "n")
    assert told.code == 2
    assert "--method distill" in " ".join(told.err.split())
    assert generality("merge", *pair, "-o", tmp_path / "n", "--data", data).code == 2


def test_bad_input(pair, tmp_path):
    lab = Lab(home=tmp_path / "steps", device="cpu", progress=False)
    with pytest.raises(UserError, match="at least one more"):
        merge_by_distillation(pair[:1], tmp_path / "n", PROMPTS, RESPONSES, lab=lab)
    with pytest.raises(UserError, match="ten are the least"):
        merge_by_distillation(pair, tmp_path / "n", PROMPTS[:9], RESPONSES[:9], lab=lab)
    with pytest.raises(ValueError, match="lam"):
        Fusion(lam=2)
    with pytest.raises(ValueError, match="k is"):
        Fusion(k=0)
    few = tmp_path / "few.jsonl"
    few.write_text('{"prompt": "a", "response": "b"}\n')
    with pytest.raises(UserError, match="ten are the least"):
        read_pairs(few)
