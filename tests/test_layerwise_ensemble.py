import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertModel,
    Trainer,
    TrainingArguments,
    ViTConfig,
    ViTModel,
)

from generality.lab import TrainConfig
from generality.lab.train import train
from generality.measures import view_contributions
from generality.models import HiddenStatePooler, hidden_state
from generality.modules import LayerwiseEnsemble, TinyTextEncoder, layerwise_loss, probe_head

IDS = torch.tensor([[3, 4, 5, 6], [7, 8, 0, 0], [9, 3, 4, 0]])
MASK = (IDS > 0).long()
LABELS = torch.tensor([0, 1, 1])


def backbone() -> BertModel:
    return BertModel(
        BertConfig(
            vocab_size=50, hidden_size=16, intermediate_size=32, num_hidden_layers=4,
            num_attention_heads=2, max_position_embeddings=32,
        )
    ).eval()  # fmt: skip


def ensemble(body: nn.Module | None = None, task: bool = True, **options) -> LayerwiseEnsemble:
    torch.manual_seed(0)
    scratch = TinyTextEncoder(vocab=50, dim=8, layers=1, heads=2) if task else None
    options.setdefault("hidden_size", 16)
    return LayerwiseEnsemble(body, scratch, (1, 2, 4), 2, head_hidden=12, **options)


def weights(module: nn.Module) -> list[Tensor]:
    return [tensor.clone() for tensor in module.state_dict().values()]


def test_the_loss_is_the_mean_of_losses_not_the_loss_of_the_mean() -> None:
    logits = torch.tensor([[[0.9, 0.1], [0.4, 0.6]]]).log()
    truth = torch.tensor([0])
    assert layerwise_loss(logits, truth).item() == pytest.approx(0.510826, abs=1e-6)
    assert layerwise_loss(logits, torch.tensor([[1.0, 0.0]])).item() == pytest.approx(0.510826)
    together = ensemble(task=False).combine(logits)
    assert together.exp().tolist() == [pytest.approx([0.65, 0.35])]
    assert -together[0, 0].item() == pytest.approx(0.430783, abs=1e-6)


def test_equal_heads_are_one_head() -> None:
    logits = torch.randn(5, 1, 3).expand(5, 4, 3)
    truth = torch.tensor([0, 1, 2, 1, 0])
    torch.testing.assert_close(
        layerwise_loss(logits, truth), nn.functional.cross_entropy(logits[:, 0], truth)
    )
    torch.testing.assert_close(
        ensemble(task=False).combine(logits).softmax(-1), logits[:, 0].softmax(-1)
    )


def test_heads_that_read_one_view_only_leave_the_other_out() -> None:
    model = ensemble(backbone()).eval()
    with torch.no_grad():
        for head in model.heads:
            head[0].weight[:, 16:] = 0
    model(IDS, MASK, labels=LABELS).loss.backward()
    assert all(not p.grad.any() for p in model.task_model.parameters())
    assert all(p.grad is not None and p.grad.any() for p in model.norms.parameters())

    model = ensemble(backbone()).eval()
    with torch.no_grad():
        for head in model.heads:
            head[0].weight[:, :16] = 0
        for head in model.heads[1:]:
            head.load_state_dict(model.heads[0].state_dict())
    per_layer = model(IDS, MASK).per_layer
    assert per_layer[:, 0].equal(per_layer[:, 1])
    assert per_layer[:, 0].equal(per_layer[:, 2])
    assert not per_layer[0].equal(per_layer[1])


def test_features_computed_once_give_what_the_live_backbone_gives() -> None:
    body = backbone()
    model = ensemble(body).eval()
    pool = HiddenStatePooler("mean")
    cached = torch.stack(
        [
            pool(hidden_state(body, layer, input_ids=IDS, attention_mask=MASK), MASK)
            for layer in (1, 2, 4)
        ],
        dim=1,
    )
    live = model(IDS, MASK, labels=LABELS)
    kept = model(IDS, MASK, hidden=cached, labels=LABELS)
    torch.testing.assert_close(live.per_layer, kept.per_layer, atol=1e-5, rtol=1e-5)
    assert live["loss"].item() == pytest.approx(kept.loss.item(), abs=1e-6)
    off_by_one = ensemble(body).eval()
    off_by_one.layers = (0, 1, 3)
    assert (off_by_one(IDS, MASK).per_layer - live.per_layer).abs().max() > 1e-3


def test_a_frozen_backbone_is_left_bit_for_bit_by_the_labs_loop() -> None:
    body = backbone()
    before = weights(body)
    model = ensemble(body)
    examples = [
        {"input_ids": ids[ids > 0].tolist(), "labels": int(label)}
        for ids, label in zip(IDS, LABELS, strict=True)
    ] * 8
    start = weights(model.task_model)
    result = train(
        model, examples, None,
        TrainConfig(epochs=20, batch_size=8, learning_rate=1e-2, dropout=True),
        seed=0, device="cpu",
    )  # fmt: skip
    assert result.history[-1] < 0.1 < result.history[0]
    assert all(a.equal(b) for a, b in zip(before, weights(body), strict=True))
    assert not all(a.equal(b) for a, b in zip(start, weights(model.task_model), strict=True))
    assert not body.training
    assert not model.train().backbone.training  # no dropout in a frozen body


@pytest.mark.parametrize("how", [False, "lora", "full"])
def test_what_learns_is_what_was_asked_for(how) -> None:
    model = ensemble(backbone(), train_backbone=how)
    learning = {name for name, p in model.backbone.named_parameters() if p.requires_grad}
    every = {name for name, _ in model.backbone.named_parameters()}
    expected = {False: set(), "lora": {n for n in every if "lora" in n}, "full": every}[how]
    assert learning == expected
    model.eval()(IDS, MASK, labels=LABELS).loss.backward()
    reached = {n for n, p in model.backbone.named_parameters() if p.grad is not None}
    assert reached <= expected
    assert bool(reached) == bool(how)


def test_the_trainer_of_transformers_trains_and_evaluates_it(tmp_path) -> None:
    torch.manual_seed(0)
    body = backbone()
    before = weights(body)
    rows = [
        {"input_ids": ids, "attention_mask": mask, "labels": label}
        for ids, mask, label in zip(IDS, MASK, LABELS, strict=True)
    ] * 8
    arguments = TrainingArguments(
        output_dir=str(tmp_path), max_steps=30, learning_rate=1e-2, report_to=[], use_cpu=True,
        save_strategy="no", disable_tqdm=True, per_device_train_batch_size=8,
    )  # fmt: skip
    trainer = Trainer(model=ensemble(body), args=arguments, train_dataset=rows, eval_dataset=rows)
    first = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < first - 0.2
    logits, per_layer = trainer.predict(rows).predictions
    assert logits.shape == (24, 2)
    assert per_layer.shape == (24, 3, 2)
    assert all(a.equal(b) for a, b in zip(before, weights(body), strict=True))


def test_images_are_read_by_both_views() -> None:
    """As LEVI's ViT: every patch is a token, and the small model sees the pixels."""
    torch.manual_seed(0)
    body = ViTModel(
        ViTConfig(
            hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
            image_size=8, patch_size=4,
        ),
        add_pooling_layer=False,
    )  # fmt: skip
    small = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 5))
    model = LayerwiseEnsemble(body, small, (1, -1), 3, task_dim=5, head_hidden=8).eval()
    pixels = torch.randn(4, 3, 8, 8)
    output = model(pixel_values=pixels, labels=torch.tensor([0, 1, 2, 0]))
    states = body(pixel_values=pixels, output_hidden_states=True).hidden_states
    kept = torch.stack([states[1].mean(1), states[2].mean(1)], dim=1)
    again = model(pixel_values=pixels, hidden=kept)
    torch.testing.assert_close(output.per_layer, again.per_layer, atol=1e-5, rtol=1e-5)
    output.loss.backward()
    assert small[1].weight.grad.any()
    assert all(p.grad is None for p in body.parameters())


def test_features_of_more_layers_than_there_are_heads_are_refused() -> None:
    for layers in (2, 4):  # the fourth would be left unread, in silence
        with pytest.raises(ValueError, match="3 layers"):
            ensemble(task=False)(hidden=torch.randn(2, layers, 16))


def test_regression_averages_values_and_squares_errors() -> None:
    model = LayerwiseEnsemble(
        None, None, (1, 2), 1, hidden_size=4, problem="regression", head_hidden=8
    ).eval()
    output = model(hidden=torch.randn(3, 2, 4), labels=torch.tensor([1.0, 2.0, 3.0]))
    torch.testing.assert_close(output.logits, output.per_layer.mean(1))
    errors = output.per_layer.squeeze(-1) - torch.tensor([1.0, 2.0, 3.0])[:, None]
    torch.testing.assert_close(output.loss, errors.square().mean())


def test_a_model_from_scratch_alone_and_heads_alone_are_ensembles_too() -> None:
    alone = LayerwiseEnsemble(None, TinyTextEncoder(50, 8, 1, 2), (), 2, hidden_size=16).eval()
    assert alone(IDS, MASK).per_layer.shape == (3, 1, 2)
    heads = ensemble(task=False).eval()
    assert heads(hidden=torch.randn(3, 3, 16)).logits.shape == (3, 2)


def test_a_view_of_ten_times_the_norm_counts_no_more() -> None:
    model = ensemble(task=False).eval()
    hidden = torch.randn(3, 3, 16)
    torch.testing.assert_close(
        model(hidden=hidden).per_layer, model(hidden=10 * hidden).per_layer, atol=1e-3, rtol=1e-3
    )


def test_bad_arguments_are_refused() -> None:
    for options, message in (
        ({"backbone": None, "hidden_size": None}, "hidden_size"),
        ({"task_model": nn.Linear(2, 2)}, "task_dim"),
        ({"layers": ()}, "layers to read"),
        ({"problem": "ranking"}, "problem"),
        ({"train_backbone": "some"}, "train_backbone"),
    ):
        arguments = {"backbone": None, "task_model": None, "layers": (1,), "hidden_size": 4}
        with pytest.raises(ValueError, match=message):
            LayerwiseEnsemble(**{**arguments, "num_outputs": 2, **options})
    with pytest.raises(ValueError, match="hidden"):
        ensemble()(IDS, MASK)


def test_padding_and_the_neighbours_in_a_batch_do_not_matter_to_the_tiny_encoder() -> None:
    encoder = TinyTextEncoder(50, 8, 2, 2).eval()
    together = encoder(IDS, MASK)
    for row in range(3):
        alone = encoder(IDS[row : row + 1, : MASK[row].sum()])
        torch.testing.assert_close(together[row], alone[0], atol=1e-5, rtol=1e-5)
    swapped = encoder(torch.tensor([[4, 3, 5, 6]]))
    assert (swapped - together[:1]).abs().max() > 1e-4  # order counts
    assert encoder(IDS + 50, MASK).equal(together)  # ids are hashed
    with pytest.raises(ValueError, match="multiple of heads"):
        TinyTextEncoder(50, 6, 1, 4)


def test_a_probe_is_the_minimum_of_its_convex_loss() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(40, 3, generator=generator)
    truth = nn.functional.one_hot((features[:, 0] > 0).long(), 2).float()
    head = nn.Linear(3, 2, bias=False)
    loss = probe_head(head, features, truth, l2=0.1)
    gradient = (head(features).softmax(-1) - truth).T @ features / 40 + 0.1 * head.weight
    assert gradient.abs().max() < 1e-3
    expected = nn.functional.cross_entropy(head(features), truth)
    assert loss == pytest.approx((expected + 0.05 * head.weight.square().sum()).item(), abs=1e-5)
    with pytest.raises(ValueError, match="features"):
        probe_head(head, features[:5], truth)


def test_contributions_of_views() -> None:
    views = np.array([[[0.9, 0.1], [0.4, 0.6]], [[0.6, 0.4], [0.2, 0.8]]])
    found = view_contributions(views, np.array([0, 0]))
    assert (found.together, found.alone, found.without) == (0.5, [1.0, 0.0], [0.0, 1.0])
    single = view_contributions(views[:, :1], np.array([0, 0]))
    assert single.together == 1.0
    assert math.isnan(single.without[0])
    with pytest.raises(ValueError, match="does not fit"):
        view_contributions(views, np.array([0]))


def test_probabilities_do_not_depend_on_the_batch_or_on_dropout() -> None:
    model = ensemble(dropout=0.5).train()
    examples = [
        {"input_ids": row[: int(mask.sum())].tolist(), "hidden": np.full((3, 16), k, np.float32)}
        for k, (row, mask) in enumerate(zip(IDS, MASK, strict=True))
    ]
    together, one = model.predict_proba(examples), model.predict_proba(examples, batch_size=1)
    assert model.training
    assert together.shape == (3, 2)
    np.testing.assert_allclose(together.sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(together, one, atol=1e-5)
