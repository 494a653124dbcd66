import numpy as np
import torch
from torch import Tensor, nn

from generality.lab import TrainConfig
from generality.training import ways_to_tune


class Bag(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.head = nn.Embedding(20, 6), nn.Linear(6, 2, bias=False)

    def pooled(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return (self.table(input_ids) * attention_mask[..., None]).sum(1)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.head(self.pooled(input_ids, attention_mask))


def weights_along_the_ways(alpha: float, learning_rate: float) -> dict[str, dict[str, Tensor]]:
    model, ids = Bag(), torch.arange(20)[:, None]
    targets = np.eye(2)[np.arange(20) % 2]
    features = model.pooled(ids, torch.ones(20, 1)).detach().numpy()
    examples = [{"input_ids": [i], "targets": target} for i, target in enumerate(targets)]
    config = TrainConfig(epochs=3, batch_size=5, learning_rate=learning_rate)
    ways = ways_to_tune(model, examples, features, config, seed=0, alpha=alpha, device="cpu")
    return {way: {k: v.clone() for k, v in model.state_dict().items()} for way in ways}


def test_wise_ft_lies_between_the_probe_and_lp_ft() -> None:
    found = weights_along_the_ways(0.25, 0.05)
    probe = weights_along_the_ways(0.0, 0.05)["wise-ft"]
    assert probe["table.weight"].equal(Bag().table.weight)  # the body as it was
    for name, between in found["wise-ft"].items():
        expected = 0.75 * probe[name] + 0.25 * found["lp-ft"][name]
        torch.testing.assert_close(between, expected)


def test_lp_ft_starts_from_the_probe_and_full_tuning_does_not() -> None:
    still = weights_along_the_ways(1.0, 0.0)
    assert still["full-tuning"]["head.weight"].equal(Bag().head.weight)
    assert not still["lp-ft"]["head.weight"].equal(Bag().head.weight)
    assert still["wise-ft"]["head.weight"].equal(still["lp-ft"]["head.weight"])


def test_a_trained_body_moves_in_both_trainings() -> None:
    found = weights_along_the_ways(1.0, 0.05)
    for way in ("full-tuning", "lp-ft"):
        assert not found[way]["table.weight"].equal(Bag().table.weight)
