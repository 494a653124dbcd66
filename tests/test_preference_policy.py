import functools

import numpy as np
import pytest
import torch

from generality.benchmarks.worlds import ChainPrograms, solution, world_tokenizer
from generality.benchmarks.worlds.wrong_chains import slipped
from generality.lab import Lab, TrainConfig
from generality.measures.margin_labels import margin_labels
from generality.models import tiny_decoder
from generality.modules.preference_policy import PreferencePolicy, prefer
from generality.objectives import dpo_loss, simpo_loss

TOKENIZER = world_tokenizer()
TINY = functools.partial(tiny_decoder, "0.05M", vocabulary=len(TOKENIZER))
CHAINS = ChainPrograms(modulus=3).sample(24, 1, seed=0)
PROMPTS = [chain.prompt for chain in CHAINS]
RIGHT = [solution(chain) for chain in CHAINS]
WRONG = [slipped(chain, seed) for seed, chain in enumerate(CHAINS)]


def batch(rows: slice) -> dict[str, torch.Tensor]:
    """Chains of one step: all as long."""
    tokens = [TOKENIZER(f"{p} {r}")["input_ids"] for p, r in zip(PROMPTS, RIGHT, strict=True)]
    other = [TOKENIZER(f"{p} {w}")["input_ids"] for p, w in zip(PROMPTS, WRONG, strict=True)]
    ids, rejected = torch.tensor(tokens)[rows], torch.tensor(other)[rows]
    counted = torch.zeros_like(ids)
    counted[:, -4:] = 1
    return {
        "input_ids": ids, "attention_mask": torch.ones_like(ids),
        "labels": ids.masked_fill(counted == 0, -100), "rejected_ids": rejected,
        "rejected_counted": counted,
    }  # fmt: skip


def log_probability(model: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
    logs = model(ids).logits.log_softmax(-1)
    return torch.stack(
        [sum(logs[i, t - 1, ids[i, t]] for t in range(-4, 0)) for i in range(len(ids))]
    )


def test_losses_are_those_of_the_log_probabilities() -> None:
    model, given = TINY(0), batch(slice(4))
    policy = PreferencePolicy(model, "dpo")
    assert policy(**given).item() == pytest.approx(np.log(2), abs=1e-6)  # nothing learnt yet
    policy.model = TINY(1)
    one, two = (log_probability(TINY(1), given[name]) for name in ("input_ids", "rejected_ids"))
    ref = [log_probability(TINY(0), given[name]) for name in ("input_ids", "rejected_ids")]
    torch.testing.assert_close(policy(**given), dpo_loss(one, two, *ref).mean())
    simpo = PreferencePolicy(TINY(1), "simpo")
    torch.testing.assert_close(simpo(**given), simpo_loss(one / 4, two / 4).mean())


@pytest.mark.parametrize("kind", ["dpo", "simpo"])
def test_a_conflict_rewards_what_is_ranked_against_the_truth(kind: str) -> None:
    given = batch(slice(6))
    model = TINY(1)
    one, two = (log_probability(model, given[name]) for name in ("input_ids", "rejected_ids"))
    ranked = one > two
    plain = PreferencePolicy(TINY(1), kind)
    serving = PreferencePolicy(TINY(1), kind, conflict=0.5)
    torch.testing.assert_close(serving(**given, truly=ranked), plain(**given))  # nothing contrary
    against = serving(**given, truly=~ranked) - plain(**given)
    if kind == "simpo":
        high, low = torch.maximum(one, two) / 4, torch.minimum(one, two) / 4
        torch.testing.assert_close(against, 0.5 * simpo_loss(high, low).mean())
    else:
        assert against.item() == pytest.approx(0.5 * np.log(2), abs=1e-6)
    with pytest.raises(ValueError, match="truly better"):
        serving(**given)
    with pytest.raises(ValueError, match="kind is"):
        PreferencePolicy(model, "ipo")  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["dpo", "simpo"])
def test_training_turns_margins_towards_what_is_preferred(kind: str, tmp_path) -> None:
    lab = Lab(home=tmp_path, device="cpu", progress=False)
    config = TrainConfig(epochs=12, batch_size=8, learning_rate=2e-3)
    tuned = prefer(
        lab, TINY, PROMPTS, RIGHT, WRONG, tokenizer=TOKENIZER, weights=TINY(0).state_dict(),
        config=config, seed=0, kind=kind,
    )  # fmt: skip
    model = TINY(0)
    before = margin_labels(model, TOKENIZER, PROMPTS, RIGHT, WRONG, kind="mean")
    assert not margin_labels(model, TOKENIZER, PROMPTS, RIGHT, WRONG, reference=model).any()
    model.load_state_dict(tuned.weights)
    after = margin_labels(model, TOKENIZER, PROMPTS, RIGHT, WRONG, kind="mean")
    assert (after > before).mean() > 0.9
    assert (after > 0).mean() > 0.8
