"""Chains of sums, their styles and checks, and the words they are made of."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from generality.benchmarks.worlds import (
    STYLES,
    Chain,
    ChainPrograms,
    Problem,
    answer_of,
    make_chain,
    solution,
    step_flags,
    world_tokenizer,
)

CHAINS = st.builds(
    lambda start, program, modulus: make_chain(start % modulus, program, modulus=modulus),
    st.integers(0, 20),
    st.lists(st.tuples(st.sampled_from("+-*"), st.integers(0, 20)), min_size=1, max_size=6),
    st.integers(2, 21),
)


def executed(chain: Chain) -> int:
    """The prompt run as a program of Python."""
    lines = [line.strip() for line in chain.prompt.rstrip("?").split(";")]
    scope: dict[str, int] = {}
    for line in lines[:-1]:
        exec(line, {}, scope)
    return scope[lines[-1]] % chain.modulus


@given(CHAINS)
@settings(max_examples=50, deadline=None)
def test_the_answer_is_what_the_program_gives(chain: Chain) -> None:
    assert chain.answer == str(executed(chain))
    for style in STYLES:
        assert chain.check(solution(chain, style))
        flags = step_flags(chain, solution(chain, style))
        assert flags == (None if style == "terse" else [False] * len(chain.values))
    assert not chain.check(solution(chain, "full") + " 0 0")


@given(CHAINS, st.data())
@settings(max_examples=50, deadline=None)
def test_segments_and_new_names_keep_the_values(chain: Chain, data) -> None:
    first = data.draw(st.integers(0, len(chain.program) - 1))
    length = data.draw(st.integers(1, len(chain.program) - first))
    segment = chain.segment(first, length)
    assert segment.values == chain.values[first : first + length + 1]
    assert executed(segment) == segment.values[-1]
    renamed = chain.renamed(1)
    assert renamed.values == chain.values
    assert renamed.names != chain.names
    with pytest.raises(ValueError, match="has no"):
        chain.segment(first, len(chain.program) - first + 1)


def test_samples_depend_on_the_seed_only() -> None:
    world = ChainPrograms(rename=True)
    assert world.sample(20, (1, 3), seed=0) == world.sample(20, (1, 3), seed=0)
    assert world.sample(20, (1, 3), seed=0) != world.sample(20, (1, 3), seed=1)
    assert {len(chain.program) for chain in world.sample(50, (1, 3), seed=0)} == {1, 2, 3}
    with pytest.raises(ValueError, match="1 to 25 steps"):
        world.sample(1, 0, seed=0)


def test_a_tokenizer_knows_every_word_and_comes_back() -> None:
    tokenizer = world_tokenizer(["reverse", "reverse", "a"])
    chain = ChainPrograms(modulus=21, operators="+-*").sample(1, 6, seed=0)[0]
    for text in (chain.prompt, *(solution(chain, style) for style in STYLES)):
        tokens = tokenizer(text)["input_ids"]
        assert tokens[0] == tokenizer.bos_token_id == 1
        assert tokenizer.unk_token_id not in tokens
        assert tokenizer.decode(tokens, skip_special_tokens=True) == text
    assert tokenizer.tokenize("reverse nonsense") == ["reverse", "<unk>"]
    assert [tokenizer.pad_token_id, tokenizer.eos_token_id] == [0, 2]


def test_the_answer_is_after_the_last_arrow() -> None:
    problem = Problem("copy", "copy : a ?", ("a",), "a")
    assert answer_of("=> b => a") == "a"
    assert problem.check("=> b => a")
    assert not problem.check("")
    assert answer_of("=>") == ""
