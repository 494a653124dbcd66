import json
import math
import warnings

import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from generality.agents import bandit_environment
from generality.agents.text_bandit import (
    STYLES,
    TextBandit,
    arm_beliefs,
    bandit_text,
    parse_arm,
    thompson_probability,
)
from generality.benchmarks.worlds import world_tokenizer
from generality.cli.steer import read_weighted
from generality.decoding import (
    SteeringHook,
    SteeringVector,
    collect_activations,
    random_control,
    shuffled_control,
    weighted_steering_vector,
)
from generality.decoding.steering_vector import blocks_of
from generality.errors import UserError
from generality.measures import action_entropy
from generality.models import generate_texts, tiny_decoder

Z = torch.tensor([[1.0, 0], [2, 1], [3, 5], [0, 1], [0, 3], [6, 2]])
H, RUNS = [0.6, 0.3, 0, 0.69, 0.1, 0], [0, 0, 0, 1, 1, 1]


def close(found: torch.Tensor, wanted: list[float]) -> None:
    torch.testing.assert_close(found, torch.tensor(wanted), atol=1e-5, rtol=0)


def test_the_vector_is_that_of_the_paper():
    close(weighted_steering_vector(Z, H, RUNS), [-1.28994, -1.23669])
    close(weighted_steering_vector(Z, H, RUNS, center="none"), [0.71006, 0.76331])
    unit = weighted_steering_vector(Z, H, RUNS, normalize=True)
    assert unit.norm().item() == pytest.approx(1)
    contrast = weighted_steering_vector(Z[:2], [1, -1], [0, 0], center="none")
    close(contrast, ((Z[0] - Z[1]) / 2).tolist())


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 50))
def test_what_a_run_shares_does_not_count(seed):
    moved = Z + torch.randn(2, 2, generator=torch.Generator().manual_seed(seed))[RUNS]
    close(weighted_steering_vector(moved, H, RUNS), weighted_steering_vector(Z, H, RUNS).tolist())
    alike = [0.6, 0.3, 0, 0.4, 0.4, 0.4]
    first = weighted_steering_vector(Z[:3], H[:3], RUNS[:3])
    close(weighted_steering_vector(Z, alike, RUNS), (first * 0.9 / 2.1).tolist())


def test_weights_of_zero_and_unequal_numbers_are_refused():
    with pytest.raises(ValueError, match="all weights are 0"):
        weighted_steering_vector(Z, [0] * 6, RUNS)
    with pytest.raises(ValueError, match="6 activations, 2 weights"):
        weighted_steering_vector(Z, [1, 2], RUNS)
    with pytest.raises(ValueError, match="weights are not all finite"):
        weighted_steering_vector(Z, [math.nan, *H[1:]], RUNS)
    with pytest.raises(ValueError, match="activations are not all finite"):
        weighted_steering_vector(Z / 0, H, RUNS)
    with pytest.raises(ValueError, match="has no direction"):
        weighted_steering_vector(Z, [1] * 6, RUNS, normalize=True)
    with pytest.raises(ValueError, match="not 'run'"):
        weighted_steering_vector(Z, H, RUNS, center="run")


def test_tensors_of_any_kind_are_weights():
    weights = torch.tensor(H, dtype=torch.bfloat16, requires_grad=True)
    found = weighted_steering_vector(Z.bfloat16(), weights, RUNS)
    close(found, weighted_steering_vector(Z, weights.tolist(), RUNS).tolist())


def test_controls_keep_the_numbers_or_the_length():
    vector = torch.arange(1.0, 9)
    assert shuffled_control(vector).sort()[0].tolist() == vector.tolist()
    assert shuffled_control(vector).tolist() != vector.tolist()
    torch.testing.assert_close(random_control(vector).norm(), vector.norm())


def test_entropies_are_those_of_the_sheet():
    assert action_entropy([20, 5]) == pytest.approx(0.50040, abs=1e-5)
    assert action_entropy([18, 4]) == pytest.approx(0.47414, abs=1e-5)
    assert action_entropy([25, 0]) == 0
    assert action_entropy([1, 1]) == pytest.approx(math.log(2))
    assert action_entropy([18, 4], estimator="miller_madow") == pytest.approx(
        0.47414 + 1 / 44, abs=1e-5
    )
    assert math.isnan(action_entropy([0, 0]))


# In a model -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model():
    return tiny_decoder("0.05M", vocabulary=len(world_tokenizer())).eval()


PROMPTS = [[1, 5, 6, 9], [1, 7], [1, 8, 4]]


def test_activations_are_the_hidden_states_of_transformers(model):
    found = collect_activations(model, PROMPTS, [0, 1], batch_size=2)
    for i, prompt in enumerate(PROMPTS):
        states = model(torch.tensor([prompt]), output_hidden_states=True).hidden_states
        for layer in (0, 1):
            torch.testing.assert_close(found[layer, i], states[layer][0, -1])
    for wrong, said in (([[]], "no token"), ([[1]], "layer is 0")):
        with pytest.raises(ValueError, match=said):
            collect_activations(model, wrong, [9])


def test_layers_of_experts_are_layers():
    layers = [nn.ModuleDict({"experts": nn.ModuleList([nn.ReLU()] * 5)}) for _ in range(2)]
    assert blocks_of(nn.ModuleDict({"layers": nn.ModuleList(layers)})) == layers
    assert blocks_of(nn.ModuleList(layers)) == layers
    with pytest.raises(ValueError, match="no list of blocks"):
        blocks_of(nn.Sequential(nn.ReLU()))


def test_only_the_last_token_of_the_prompt_is_changed_and_only_inside(model):
    ids, vector = torch.tensor([PROMPTS[0]]), torch.ones(48)
    plain = model(ids).logits
    for layer in (0, 1, 2):
        with SteeringHook(model, layer, vector, 2.0):
            steered = model(ids).logits
        assert torch.equal(steered[:, :-1], plain[:, :-1])
        assert (steered[:, -1] != plain[:, -1]).any()
        with SteeringHook(model, layer, vector, 2.0, positions="all"):
            assert (model(ids).logits[:, 0] != plain[:, 0]).any()
    assert torch.equal(model(ids).logits, plain)
    with SteeringHook(model, 1, vector, 0.0):
        assert torch.equal(model(ids).logits, plain)


def test_with_a_cache_and_without_the_same_is_written(model):
    ids, vector = torch.tensor([PROMPTS[0]]), torch.linspace(-1, 1, 48)
    options = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None}
    with SteeringHook(model, 1, vector, 3.0):
        cached = model.generate(ids, **options)
        again = model.generate(ids, **options)
    with SteeringHook(model, 1, vector, 3.0, cached=False):
        whole = model.generate(ids, use_cache=False, **options)
    assert cached.tolist() == again.tolist() == whole.tolist()
    assert cached.tolist() != model.generate(ids, **options).tolist()


def test_texts_of_a_batch_are_steered_like_one(model):
    tokenizer, vector = world_tokenizer(), torch.linspace(-1, 1, 48)
    prompts = ["a 3 b 7 :", "b 2 :"]
    with SteeringHook(model, 1, vector, 3.0):
        together = generate_texts(model, tokenizer, prompts, max_tokens=4)
        alone = [generate_texts(model, tokenizer, [prompt], max_tokens=4)[0] for prompt in prompts]
    assert together == alone


def test_a_vector_that_does_not_fit_is_refused(model):
    with (
        pytest.raises(ValueError, match="3 numbers, the layer 48"),
        SteeringHook(model, 1, torch.ones(3), 1.0),
    ):
        model(torch.tensor([[1, 2]]))
    with pytest.raises(ValueError, match="layer is 0"):
        SteeringHook(model, 3, torch.ones(48))
    hooks = model.model.layers[0]._forward_hooks.values()
    assert not [hook for hook in hooks if hook.__module__.startswith("generality")]


def test_a_vector_is_kept_with_its_layer(tmp_path):
    kept = SteeringVector(torch.arange(3.0), 5, 2.5)
    kept.save(tmp_path / "v.safetensors")
    found = SteeringVector.load(tmp_path / "v.safetensors")
    assert (found.vector.tolist(), found.layer, found.norm) == ([0, 1, 2], 5, 2.5)
    (tmp_path / "bad.safetensors").write_bytes(b"no")
    for name in ("bad.safetensors", "none.safetensors"):
        with pytest.raises(UserError, match="no steering vector"):
            SteeringVector.load(tmp_path / name)


# Bandits ----------------------------------------------------------------------------------------


def test_a_bandit_pays_around_its_means_and_counts_regret():
    bandit = TextBandit((95, 105), sd=10, rounds=400)
    text, _ = bandit.reset(seed=0)
    assert text.endswith("I choose Button")
    rewards = [bandit.step(i % 2)[1] for i in range(400)]
    assert np.mean(rewards[::2]) == pytest.approx(95, abs=2.5)
    assert np.std(rewards[1::2]) == pytest.approx(10, abs=2)
    assert bandit.regret == 2000
    first = rewards[:5]
    bandit.reset(seed=0)
    assert [bandit.step(i % 2)[1] for i in range(5)] == first


def test_an_answer_without_an_arm_ends_the_episode():
    bandit = TextBandit((1, 2), style="slots")
    _, reward, over, _, info = bandit.step("I cannot say.")
    assert (reward, over, info["valid"]) == (0, True, False)
    assert bandit.step("Machine 2, as Machine 1 is unknown. Machine 1")[4]["regret"] == 1
    assert parse_arm("Button 12", STYLES["buttons"]) is None
    assert parse_arm("6 7 b", STYLES["letters"]) == 1
    assert bandit_text([(0, 7)], STYLES["other-letters"]) == "c 7 :"
    with pytest.raises(UserError, match="letters"):
        TextBandit((1, 2), style="leters")


def test_gymnasium_takes_a_bandit_for_one_of_its_own():
    env = bandit_environment(TextBandit((95, 105), rounds=3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env, skip_render_check=True)
    env.reset(seed=7)
    first = [env.step(1)[1] for _ in range(3)]
    env.reset()
    assert first != [env.step(1)[1] for _ in range(3)]  # the generator goes on
    bandit = TextBandit((95, 105), rounds=3)
    bandit.reset(seed=7)
    assert first == [bandit.step(1)[1] for _ in range(3)]


def test_beliefs_are_those_of_bayes():
    means, sds = arm_beliefs([(0, 4.0), (0, 8.0)], sd=2, prior_mean=0, prior_sd=2)
    assert means.tolist() == pytest.approx([4, 0])
    assert sds.tolist() == pytest.approx([2 / math.sqrt(3), 2])
    drawn = np.random.default_rng(0).normal(means, sds, (20000, 2))
    share = (drawn[:, 0] > drawn[:, 1]).mean()
    assert thompson_probability(means, sds) == pytest.approx(share, abs=0.01)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("nonsense", "no JSON"),
        ('{"prompt": "a"}', '"weight"'),
        ("[1]", "no record of named parts"),
        ("", "empty"),
    ],
)
def test_bad_records_to_learn_from_are_named(tmp_path, line, said):
    good = json.dumps({"prompt": "a", "weight": 1})
    (tmp_path / "a.jsonl").write_text(line and f"{good}\n{line}\n")
    with pytest.raises(UserError, match=said):
        read_weighted(tmp_path / "a.jsonl")
