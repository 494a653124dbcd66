"""Tiny decoders: made, tuned, asked to write; and the lab's keeping of both."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from torch import nn
from transformers import LlamaForCausalLM

from generality.benchmarks.worlds import ChainPrograms, solution, world_tokenizer
from generality.lab import Lab, TrainConfig
from generality.models import encode_response, generate_texts, tiny_decoder
from generality.models.prompt_response import response_labels
from generality.models.tiny_decoders import SIZES

TOKENIZER = world_tokenizer()
TINY = functools.partial(tiny_decoder, "0.05M", vocabulary=len(TOKENIZER))
CONFIG = TrainConfig(epochs=40, batch_size=16, learning_rate=5e-3, schedule="constant")
CHAINS = ChainPrograms(modulus=3).sample(16, 1, seed=0)
PROMPTS = [chain.prompt for chain in CHAINS]
RESPONSES = [solution(chain) for chain in CHAINS]


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Lab:
    return Lab(home=tmp_path_factory.mktemp("steps"), device="cpu", progress=False)


@pytest.fixture(scope="module")
def tuned(lab: Lab):
    return lab.sft(TINY, PROMPTS, RESPONSES, tokenizer=TOKENIZER, config=CONFIG, seed=0, keep=[0.5])


def loaded(weights) -> LlamaForCausalLM:
    model = TINY(0)
    model.load_state_dict(weights)
    return model


@pytest.mark.parametrize("size", SIZES)
def test_sizes_are_about_what_their_names_say(size: str) -> None:
    model = tiny_decoder(size, vocabulary=70)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count == pytest.approx(float(size[:-1]) * 1e6, rel=0.25)


def test_weights_depend_on_the_seed_only() -> None:
    same = [TINY(seed).state_dict()["lm_head.weight"] for seed in (0, 0, 1)]
    assert torch.equal(same[0], same[1])
    assert not torch.equal(same[0], same[2])
    with pytest.raises(ValueError, match="there is no size"):
        tiny_decoder("7B", vocabulary=70)


def test_only_the_response_is_learned() -> None:
    tokens, start = encode_response(TOKENIZER, "a = 3 ; a ?", "3 => 3")
    labels = response_labels(tokens, start)
    words = TOKENIZER.convert_ids_to_tokens([label for label in labels if label != -100])
    assert words == ["3", "=>", "3", "<eos>"]
    assert encode_response(TOKENIZER, "a ?", "=> 3", eos=False)[0][-1] != TOKENIZER.eos_token_id
    assert len(encode_response(TOKENIZER, "a ?", "=> 3", max_length=2)[0]) == 2


def test_tuning_learns_and_is_kept(lab: Lab, tuned) -> None:
    texts = lab.generate(TINY, PROMPTS, weights=tuned.weights, tokenizer=TOKENIZER, max_tokens=8)
    right = [chain.check(text) for chain, (text,) in zip(CHAINS, texts, strict=True)]
    assert np.mean(right) > 0.8
    assert set(tuned.kept) == {"0.5"}
    assert not torch.equal(tuned.kept["0.5"]["lm_head.weight"], tuned.weights["lm_head.weight"])
    computed = lab.steps.computed
    again = lab.sft(
        TINY, PROMPTS, RESPONSES, tokenizer=TOKENIZER, config=CONFIG, seed=0, keep=[0.5]
    )
    assert again.losses == tuned.losses
    assert (
        lab.generate(TINY, PROMPTS, weights=tuned.weights, tokenizer=TOKENIZER, max_tokens=8)
        == texts
    )
    assert lab.steps.computed == computed


def test_tuning_goes_on_from_weights(lab: Lab, tuned) -> None:
    config = TrainConfig(epochs=1, batch_size=16, learning_rate=0.0)
    again = lab.sft(
        TINY, PROMPTS, RESPONSES, tokenizer=TOKENIZER, config=config, seed=3, weights=tuned.weights
    )
    assert all(torch.equal(again.weights[name], value) for name, value in tuned.weights.items())
    assert again.losses[0] < tuned.losses[0]


class Weighted(nn.Module):
    """A loss of one's own around the model: examples weigh what a column says."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask, labels, weight):
        logits = self.model(input_ids=input_ids, attention_mask=attention_mask).logits[:, :-1]
        loss = nn.functional.cross_entropy(logits.transpose(1, 2), labels[:, 1:], reduction="none")
        return (loss * weight[:, None]).sum() / (labels[:, 1:] != -100).sum()


def test_a_loss_of_ones_own_gets_the_extra_columns(lab: Lab) -> None:
    config = TrainConfig(epochs=1, batch_size=16, learning_rate=1e-3)
    run = functools.partial(
        lab.sft, TINY, PROMPTS, RESPONSES, tokenizer=TOKENIZER, config=config, seed=0
    )
    plain = run()
    ones = run(wrap=Weighted, extra={"weight": [1.0] * 16})
    assert ones.losses == pytest.approx(plain.losses, rel=1e-5)
    zeros = run(wrap=Weighted, extra={"weight": [0.0] * 16})
    assert zeros.losses == [0.0]
    with pytest.raises(ValueError, match="columns differ in length"):
        run(extra={"weight": [1.0]})


def test_a_batch_writes_what_each_prompt_alone_would(tuned) -> None:
    model = loaded(tuned.weights)
    prompts = [chain.prompt for chain in ChainPrograms(modulus=3).sample(9, (1, 3), seed=1)]
    together = generate_texts(model, TOKENIZER, prompts, max_tokens=10, batch_size=4)
    alone = [generate_texts(model, TOKENIZER, [p], max_tokens=10)[0] for p in prompts]
    assert together == alone
    theirs = [
        model.generate(
            **TOKENIZER(prompt, return_tensors="pt", return_token_type_ids=False),
            max_new_tokens=10, do_sample=False,
        )
        for prompt in prompts
    ]  # fmt: skip
    decoded = [TOKENIZER.decode(row[0], skip_special_tokens=True) for row in theirs]
    assert [f"{p} {text}".strip() for p, text in zip(prompts, together, strict=True)] == decoded


def test_drawing_follows_the_probabilities_and_the_seed() -> None:
    model = TINY(0)
    draw = functools.partial(
        generate_texts, model, TOKENIZER, [PROMPTS[0]] * 400, max_tokens=1, temperature=0.5
    )
    first = draw(seed=0)
    assert first == draw(seed=0, batch_size=7)
    assert first != draw(seed=1)
    inputs = torch.tensor([TOKENIZER(PROMPTS[0])["input_ids"]])
    logits = model(inputs).logits[0, -1].detach()
    expected, order = (logits / 0.5).softmax(-1).sort(descending=True)
    likely = {TOKENIZER.decode([token]) for token in order[:10].tolist() if token > 3}
    share = np.mean([text in likely for text in first])
    assert share == pytest.approx(float(expected[:10][order[:10] > 3].sum()), abs=0.1)
    assert len(set(draw(seed=0, top_p=1e-6))) == 1


def test_what_cannot_be_written_is_refused(lab: Lab) -> None:
    model = TINY(0)
    with pytest.raises(ValueError, match="temperature"):
        generate_texts(model, TOKENIZER, ["a ?"], temperature=-1)
    with pytest.raises(ValueError, match="has no token"):
        generate_texts(model, TOKENIZER, ["a ?", ""], special_tokens=False)
    with pytest.raises(ValueError, match="needs its weights"):
        lab.generate(TINY, ["a ?"])
