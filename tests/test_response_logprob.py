import functools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    GPT2Config,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from generality.benchmarks.worlds import ChainPrograms, solution, world_tokenizer
from generality.measures import choice_logprobs, expected_over_choices, response_logprob
from generality.models import tiny_decoder
from generality.models.generation import generate_texts
from generality.models.packing import takes_packed
from generality.models.prompt_response import encode_response

scoring = import_module("generality.measures.response_logprob")  # hidden by its function's name
TOKENIZER = world_tokenizer()
MODEL = tiny_decoder("0.05M", vocabulary=len(TOKENIZER))
CHAINS = ChainPrograms().sample(4, (1, 3), seed=0)
STYLES = ("full", "states", "terse")
PAIRS = [(chain.prompt, solution(chain, style)) for chain in CHAINS for style in STYLES]
PROMPTS, RESPONSES = [p for p, _ in PAIRS], [r for _, r in PAIRS]


@functools.cache
def by_hand(prompt: str, response: str) -> list[float]:
    """One token after another, each from a pass of its own over what precedes it."""
    tokens, start = encode_response(TOKENIZER, prompt, response)
    found = []
    for place in range(start, len(tokens)):
        logits = MODEL(torch.tensor([tokens[:place]])).logits[0, -1].double()
        found.append((logits[tokens[place]] - logits.logsumexp(0)).item())
    return found


@pytest.mark.parametrize("shared_prefix", [True, False])
@pytest.mark.parametrize("batch_size", [1, 5, 64])
@pytest.mark.parametrize("side", ["left", "right"])
def test_scores_are_those_of_each_token_after_what_precedes_it(
    shared_prefix: bool, batch_size: int, side: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TOKENIZER, "padding_side", side)
    options = {"batch_size": batch_size, "shared_prefix": shared_prefix}
    expected = [by_hand(*pair) for pair in PAIRS]
    each = response_logprob(MODEL, TOKENIZER, PROMPTS, RESPONSES, reduce="none", **options)
    for row, wanted in zip(each, expected, strict=True):
        torch.testing.assert_close(row[: len(wanted)], torch.tensor(wanted), atol=1e-4, rtol=0)
        assert row[len(wanted) :].isnan().all()
    for reduce, of in (("sum", sum), ("mean", lambda row: sum(row) / len(row))):
        scores = response_logprob(MODEL, TOKENIZER, PROMPTS, RESPONSES, reduce=reduce, **options)
        torch.testing.assert_close(
            scores, torch.tensor([of(row) for row in expected]), atol=1e-4, rtol=0
        )


@settings(max_examples=8, deadline=None)
@given(st.permutations(range(len(PAIRS))))
def test_order_of_the_pairs_does_not_matter(order: list[int]) -> None:
    whole = response_logprob(MODEL, TOKENIZER, PROMPTS, RESPONSES)
    moved = response_logprob(
        MODEL, TOKENIZER, [PROMPTS[i] for i in order], [RESPONSES[i] for i in order]
    )
    torch.testing.assert_close(moved, whole[order], atol=1e-4, rtol=0)


@contextmanager
def reading(model) -> Iterator[list[tuple[int, ...]]]:
    """Shapes of what the model reads."""
    read: list[tuple[int, ...]] = []
    handle = model.model.embed_tokens.register_forward_hook(
        lambda module, inputs, output: read.append(tuple(inputs[0].shape))
    )
    try:
        yield read
    finally:
        handle.remove()


def test_candidates_of_a_prompt_run_it_once() -> None:
    assert takes_packed(MODEL)
    with reading(MODEL) as read:
        response_logprob(MODEL, TOKENIZER, PROMPTS[:3], RESPONSES[:3], batch_size=8)
    prompt = len(TOKENIZER(PROMPTS[0])["input_ids"])
    lengths = [len(TOKENIZER(r)["input_ids"]) - 1 for r in RESPONSES[:3]]
    assert read == [(1, prompt + sum(lengths))]  # the end token is predicted, not read


@pytest.mark.parametrize("why", ["attention", "length"])
def test_where_candidates_cannot_be_packed_keys_and_values_are_reused(
    why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = response_logprob(MODEL, TOKENIZER, PROMPTS, RESPONSES, shared_prefix=False)
    if why == "attention":
        monkeypatch.setattr(scoring, "takes_packed", lambda model: False)
    else:
        monkeypatch.setattr(scoring, "LONGEST_PACKED", 10)
    with reading(MODEL) as read:
        found = response_logprob(MODEL, TOKENIZER, PROMPTS[:3], RESPONSES[:3])
    torch.testing.assert_close(found, expected[:3], atol=1e-4, rtol=0)
    prompt = len(TOKENIZER(PROMPTS[0])["input_ids"])
    longest = max(len(TOKENIZER(r)["input_ids"]) - 1 for r in RESPONSES[:3])
    assert read == [(1, prompt), (3, longest)]


@pytest.mark.parametrize("config", [
    GPT2Config(vocab_size=96, n_embd=32, n_layer=2, n_head=2, n_positions=96),
    Qwen2Config(
        vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2,
    ),
    MistralConfig(
        vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, sliding_window=16,
    ),
    BloomConfig(vocab_size=96, hidden_size=32, n_layer=2, n_head=2),
], ids=lambda config: config.model_type)  # fmt: skip
def test_families_of_models_score_the_same_with_and_without_a_shared_prefix(config) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    apart = response_logprob(model, TOKENIZER, PROMPTS, RESPONSES, shared_prefix=False)
    together = response_logprob(model, TOKENIZER, PROMPTS, RESPONSES)
    torch.testing.assert_close(together, apart, atol=1e-4, rtol=0)
    assert takes_packed(model) == (config.model_type in ("gpt2", "mistral", "qwen2"))


def test_a_model_that_overlooks_the_mask_is_not_packed() -> None:
    class Blind(type(MODEL)):  # type: ignore[misc]
        def forward(self, input_ids, attention_mask=None, position_ids=None, **options):
            return super().forward(input_ids, position_ids=position_ids, **options)

    blind = Blind(MODEL.config).eval()
    blind.load_state_dict(MODEL.state_dict())
    assert not takes_packed(blind)


class Fixed(nn.Module):
    """Next-token probabilities that do not depend on what was read."""

    def __init__(self, probabilities: list[float]) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(probabilities).log())

    def forward(self, input_ids, past_key_values=None, use_cache=False):
        from types import SimpleNamespace

        logits = self.logits.expand(*input_ids.shape, -1)
        return SimpleNamespace(logits=logits, past_key_values=self)

    def reorder_cache(self, rows) -> None:
        pass


def test_reductions_match_the_published_sums_means_and_perplexities() -> None:
    logps = [[-0.5, -0.5, -2, -0.4], [-0.9] * 12, [-1, -0.2], [-0.3] * 20]
    levels = sorted({value for row in logps for value in row})
    words = ["<pad>", "<bos>", "<eos>", "p", *(f"w{i}" for i in range(len(levels)))]
    core = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<pad>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<eos>")
    model = Fixed([0.5, 0.5, 0.5, 0.5, *(math.exp(level) for level in levels)])
    shift = model.logits.logsumexp(0).item()  # what normalising takes from every token
    responses = [" ".join(f"w{levels.index(value)}" for value in row) for row in logps]
    lengths = torch.tensor([len(row) for row in logps])
    options = {"include_eos": False}
    sums = response_logprob(model, tokenizer, ["p"] * 4, responses, reduce="sum", **options)
    means = response_logprob(model, tokenizer, ["p"] * 4, responses, **options)
    expected_sums = torch.tensor([-3.4, -10.8, -1.2, -6.0])
    expected_means = torch.tensor([-0.85, -0.9, -0.6, -0.3])
    torch.testing.assert_close(sums + shift * lengths, expected_sums, atol=1e-4, rtol=0)
    torch.testing.assert_close(means + shift, expected_means, atol=1e-4, rtol=0)
    perplexities = torch.exp(-(means + shift))[:3]
    expected = torch.tensor([2.339647, 2.459603, 1.822119])
    torch.testing.assert_close(perplexities, expected, atol=1e-4, rtol=0)


def test_what_the_model_writes_greedily_is_its_first_choice_at_every_token() -> None:
    model = tiny_decoder("0.05M", vocabulary=len(TOKENIZER))
    out = model.lm_head.weight.detach().clone()
    out[[0, 1, 3]] = 0  # special tokens are lost when a text is decoded: never the likeliest here
    model.lm_head.weight = nn.Parameter(out)
    [written] = generate_texts(model, TOKENIZER, PROMPTS[:1], max_tokens=12)
    tokens, start = encode_response(TOKENIZER, PROMPTS[0], written, eos=False)
    logits = model(torch.tensor([tokens])).logits[0, start - 1 : -1]
    assert logits.argmax(-1).tolist() == tokens[start:]
    best = logits.log_softmax(-1).amax(-1).sum()
    score = response_logprob(
        model, TOKENIZER, PROMPTS[:1], [written], reduce="sum", include_eos=False
    )
    torch.testing.assert_close(score[0], best, atol=1e-4, rtol=0)


def test_the_end_token_is_counted_only_where_asked() -> None:
    options = {"reduce": "none"}
    with_end = response_logprob(MODEL, TOKENIZER, PROMPTS[:1], RESPONSES[:1], **options)
    without = response_logprob(
        MODEL, TOKENIZER, PROMPTS[:1], RESPONSES[:1], include_eos=False, **options
    )
    torch.testing.assert_close(with_end[:, :-1], without)


def test_a_token_across_the_boundary_belongs_to_the_response() -> None:
    pieces = ["<eos>", *"ab\n:", "\n\n"]
    core = Tokenizer(models.BPE({p: i for i, p in enumerate(pieces)}, [("\n", "\n")]))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<eos>")
    model = tiny_decoder("0.05M", vocabulary=len(pieces))
    tokens, start = encode_response(tokenizer, "a:\n", "\nb", eos=False)
    assert (tokenizer.convert_ids_to_tokens(tokens), start) == (["a", ":", "\n\n", "b"], 2)
    prompts, responses = ["a:\n"] * 3, ["\nb", "b", "\na"]
    apart = response_logprob(model, tokenizer, prompts, responses, shared_prefix=False)
    together = response_logprob(model, tokenizer, prompts, responses)
    torch.testing.assert_close(together, apart, atol=1e-4, rtol=0)


def test_too_long_and_empty_responses_are_nan_and_never_cut() -> None:
    model = tiny_decoder("0.05M", vocabulary=len(TOKENIZER), context=16)
    responses = ["=> 3", "1 " * 20 + "=> 3", ""]
    options = {"prompts": ["a ?"] * 3, "responses": responses, "include_eos": False}
    mean = response_logprob(model, TOKENIZER, **options)
    assert mean.isnan().tolist() == [False, True, True]
    assert response_logprob(model, TOKENIZER, reduce="sum", **options)[2] == 0
    assert response_logprob(model, TOKENIZER, [], []).shape == (0,)


def test_a_model_that_says_nothing_finite_gives_no_score() -> None:
    model = tiny_decoder("0.05M", vocabulary=len(TOKENIZER))
    next(model.parameters()).data.fill_(torch.nan)
    for reduce in ("sum", "mean"):
        assert response_logprob(model, TOKENIZER, ["a ?"], ["=> 3"], reduce=reduce).isnan().all()


def test_training_mode_and_dropout_are_put_back() -> None:
    MODEL.train()
    try:
        response_logprob(MODEL, TOKENIZER, PROMPTS[:1], RESPONSES[:1])
        assert MODEL.training
    finally:
        MODEL.eval()


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="1 prompts and 2 responses"):
        response_logprob(MODEL, TOKENIZER, ["a"], ["b", "c"])
    with pytest.raises(ValueError, match="reduce"):
        response_logprob(MODEL, TOKENIZER, ["a"], ["b"], reduce="max")  # type: ignore[arg-type]


def test_choices_are_normalised_and_averaged() -> None:
    choices = ["0", "1", "2"]
    rows = choice_logprobs(MODEL, TOKENIZER, PROMPTS[:2], choices)
    torch.testing.assert_close(rows.exp().sum(1), torch.ones(2))
    raw = choice_logprobs(MODEL, TOKENIZER, PROMPTS[:2], choices, normalize=False)
    torch.testing.assert_close(raw.log_softmax(-1), rows)
    expected = rows.exp() @ torch.tensor([0.0, 1.0, 2.0])
    torch.testing.assert_close(expected_over_choices(rows, [0, 1, 2]), expected)
    with pytest.raises(ValueError, match="3 choices and 2 values"):
        expected_over_choices(rows, [0, 1])
