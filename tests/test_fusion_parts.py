import math

import numpy as np
import pytest
import torch
from torch.nn import functional

import tiny_models
from generality.errors import UserError
from generality.measures import diagonal_fisher, response_logprob, synergy
from generality.models import align_tokens, alignment_cost, teacher_topk
from generality.objectives import FusionLoss, fuse_distributions
from generality.training.fused_teachers import fused_topk, with_gold
from generality.weights import sce_merge


def test_fusion_takes_the_values_of_the_sheet():
    entropies = torch.tensor([1.20, 0.90, 1.05])
    distributions = torch.eye(3)
    chosen = fuse_distributions(distributions[:, None], entropies[:, None])
    assert chosen.tolist() == [[0.0, 1.0, 0.0]]
    averaged = fuse_distributions(distributions[:, None], entropies[:, None], "avg_ce")[0]
    torch.testing.assert_close(averaged, torch.tensor([0.2848, 0.3844, 0.3308]), atol=1e-4, rtol=0)
    even = fuse_distributions(distributions[:, None], torch.zeros(3, 1).half())
    assert even.tolist() == [[1.0, 0.0, 0.0]]  # the first of equals
    with pytest.raises(ValueError, match="min_ce"):
        fuse_distributions(distributions[:, None], entropies[:, None], "max_ce")
    with pytest.raises(ValueError, match="cross-entropies"):
        fuse_distributions(distributions, entropies[:, None])


def test_the_loss_is_a_mix_of_two_cross_entropies():
    torch.manual_seed(0)
    logits, gold = torch.randn(2, 5, 7), torch.randint(7, (2, 5))
    target = torch.randn(2, 5, 7).softmax(-1)
    own = functional.cross_entropy(logits.flatten(0, 1), gold.flatten())
    fused = functional.cross_entropy(logits.flatten(0, 1), target.flatten(0, 1))
    torch.testing.assert_close(FusionLoss(0.9)(logits, gold, target), 0.9 * own + 0.1 * fused)
    mask = torch.zeros(2, 5)
    mask[0, 1] = 1
    one = FusionLoss(1.0)(logits, gold, target, mask)
    torch.testing.assert_close(one, -logits[0, 1].log_softmax(-1)[gold[0, 1]])
    with pytest.raises(ValueError, match="lam"):
        FusionLoss(1.1)
    with pytest.raises(ValueError, match=r"classes \(1,\) .* for logits \(2, 7\)"):
        FusionLoss()(logits[0, :2], gold[0, :1], target[0, :2])


def test_fusing_a_model_with_itself_pulls_nowhere():
    logits = torch.randn(4, 6, generator=torch.Generator().manual_seed(0)).requires_grad_()
    FusionLoss(0.0)(logits, torch.zeros(4, dtype=torch.long), logits.softmax(-1)).backward()
    assert logits.grad is not None
    assert logits.grad.abs().max() < 1e-7


def test_sce_by_hand():
    base = {"w": torch.zeros(4), "n": torch.tensor([3])}
    experts = [
        {"w": torch.tensor([3.0, 1, 0, 1]), "n": base["n"]},
        {"w": torch.tensor([-1.0, 1, 2, 1]), "n": base["n"]},
    ]
    # variances 4, 0, 1, 0: of the two that differ, half is one: the first; weights 9/10, 1/10
    made = sce_merge(experts, base, topk=0.5)
    torch.testing.assert_close(made["w"], torch.tensor([3.0, 1, 2, 1]))
    assert made["n"].tolist() == [3]
    same = sce_merge([experts[0]] * 2, base)
    torch.testing.assert_close(same["w"], experts[0]["w"])
    with pytest.raises(ValueError, match="topk"):
        sce_merge(experts, base, topk=0)
    with pytest.raises(ValueError, match="nothing to merge"):
        sce_merge([], base)
    with pytest.raises(UserError, match="'w' has numbers that are not finite"):
        sce_merge([{**experts[0], "w": torch.full((4,), torch.nan)}], base)


def test_sce_merges_single_numbers():
    base = {"scale": torch.zeros(())}  # as CLIP's logit_scale
    made = sce_merge([{"scale": torch.tensor(2.0)}, {"scale": torch.tensor(1.0)}], base)
    torch.testing.assert_close(made["scale"], torch.tensor((2 * 4 + 1) / 5))


def test_synergy_compares_with_the_best_and_with_the_sum():
    found = synergy(0.9, [0.5, 0.6], 0.3)
    assert math.isclose(found.over_best, 0.3)
    assert math.isclose(found.over_sum, 0.9 - (0.3 + 0.2 + 0.3))
    with pytest.raises(ValueError, match="no experts"):
        synergy(1.0, [], 0.0)


def test_tokens_align_as_the_sheet_says():
    assert align_tokens(["get", "s", "now"], ["gets", "no", "w"]) == [[0], [1], [2]]
    assert alignment_cost(["get", "s", "now"], ["gets", "no", "w"]) == 5
    source, pivot = ["the", "▁un", "happy", "▁cat"], ["the", "▁unhappy", "▁cat", "s"]
    assert align_tokens(source, pivot) == [[0, 1], [2], [3], [3]]
    assert alignment_cost(source, pivot) == 8  # of a mark that counts as a letter, 10:
    source, pivot = ([t.replace("▁", "_") for t in tokens] for tokens in (source, pivot))
    assert align_tokens(source, pivot) == [[0, 1], [2], [3], [3]]
    assert alignment_cost(source, pivot) == 10


def test_each_text_takes_the_source_that_finds_it_least_surprising():
    tokenizer = tiny_models.tokenizer()
    prompts = ["the film is", "a book was", "the film was"]
    responses = ["very good", "bad", "not long but good"]
    sources = [(tiny_models.llama(seed), tokenizer) for seed in (0, 1)]
    targets, best, table = fused_topk(sources, prompts, responses, k=3)
    for number, (model, _) in enumerate(sources):
        summed = response_logprob(
            model, tokenizer, prompts, responses, reduce="sum", include_eos=False
        )
        lengths = torch.tensor([len(text) for text in responses])
        torch.testing.assert_close(
            torch.from_numpy(table[number]), -(summed / lengths).double(), atol=1e-6, rtol=0
        )
    assert best.tolist() == table.argmin(0).tolist()
    for text, (tokens, likely) in zip(responses, targets, strict=True):
        assert tokens == text.split()
        assert [len(each) for each in likely] == [3] * len(tokens)
    own = teacher_topk(sources[best[1]][0], tokenizer, prompts[1:2], responses[1:2], k=3)
    assert targets[1] == own[0]
    with pytest.raises(ValueError, match="no sources"):
        fused_topk([], prompts, responses)


def test_columns_with_the_true_token_are_the_fusion_loss():
    torch.manual_seed(0)
    logits, gold = torch.randn(3, 8), [2, 5, 1]
    ids = np.array([[2, 4], [1, 5], [0, 0]])
    told = np.array([[0.7, 0.3], [0.6, 0.4], [0.0, 0.0]], dtype=np.float32)
    names, probabilities = with_gold(ids, told, gold, lam=0.9)
    assert probabilities[2].tolist() == [0, 0, 0]  # no target, still none
    dense = torch.zeros(2, 8)
    for row in range(2):
        for place in range(2):
            dense[row, ids[row, place]] += float(told[row, place])
    loss = FusionLoss(0.9)(logits[:2], torch.tensor(gold[:2]), dense)
    logs = logits[:2].log_softmax(-1).gather(-1, torch.from_numpy(names[:2]))
    mixed = -(torch.from_numpy(probabilities[:2]) * logs).sum(-1).mean()
    torch.testing.assert_close(mixed, loss)


def test_the_fisher_information_is_the_mean_of_squares_not_the_square_of_the_mean():
    model = torch.nn.Linear(2, 1)
    x = torch.tensor([[1.0, 0.0], [-1.0, 2.0]])
    found = diagonal_fisher(model, x, lambda model, row: model(row).sum())
    assert found["weight"].tolist() == [[1.0, 2.0]]
    assert found["bias"].tolist() == [1.0]
    assert model.weight.grad is None
    with pytest.raises(ValueError, match="no examples"):
        diagonal_fisher(model, [], lambda model, row: model(row).sum())
