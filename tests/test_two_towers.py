"""CLIP by name, on a tiny one: zero-shot choices, prompts on both sides, and three studies."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn.functional import cross_entropy

import tiny_models
from generality.agents import ChoiceTask, ClipZeroShot
from generality.errors import UserError
from generality.lab import Lab
from generality.models.two_towers import TwoTowers
from generality.modules import DualPrompt, GradientRegulator, SoftPrompt, VisualPrompt
from generality.studies import configure, find_study
from generality.training import MetaTask, meta_train

NAMES = ["dog", "cat", "horse"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_models.clip(tmp_path_factory.mktemp("clip") / "model")


@pytest.fixture(scope="module")
def towers(folder: str) -> TwoTowers:
    return TwoTowers(folder, device="cpu")


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(0).random((6, 3, 16, 16)).astype(np.float32)


def test_both_towers_are_those_of_transformers(folder: str, towers: TwoTowers, pixels) -> None:
    from transformers import CLIPModel, CLIPProcessor

    pytest.importorskip("PIL")
    model, processor = CLIPModel.from_pretrained(folder), CLIPProcessor.from_pretrained(folder)
    as_bytes = np.rint(pixels * 255).astype(np.uint8)
    given = processor(text=NAMES, images=list(as_bytes), padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = model.eval()(**given)
    said = torch.from_numpy(towers.encode_images(as_bytes.astype(np.float32) / 255))
    torch.testing.assert_close(said, expected.image_embeds, atol=1e-5, rtol=1e-4)
    texts = torch.from_numpy(towers.encode_texts(NAMES))
    torch.testing.assert_close(texts, expected.text_embeds, atol=1e-5, rtol=1e-4)
    choices = ClipZeroShot(folder, device="cpu", batch=4).predict(
        ChoiceTask(list(pixels), tuple(NAMES))
    )
    best = expected.logits_per_image.softmax(-1)
    assert [choice.label for choice in choices] == [NAMES[i] for i in best.argmax(-1)]
    assert [choice.confidence for choice in choices] == pytest.approx(
        best.amax(-1).tolist(), abs=1e-5
    )


def test_a_template_is_what_is_read(folder: str, towers: TwoTowers, pixels) -> None:
    plain = ClipZeroShot(folder, device="cpu")
    framed = ClipZeroShot(folder, template="a photo of a {}", device="cpu")
    assert plain.fingerprint != framed.fingerprint
    task = ChoiceTask(list(pixels), tuple(NAMES))
    cosines = towers.encode_images(np.rint(pixels * 255) / np.float32(255)) @ (
        towers.encode_texts([f"a photo of a {name}" for name in NAMES]).T
    )
    assert [c.label for c in framed.predict(task)] == [NAMES[i] for i in cosines.argmax(1)]
    with pytest.raises(ValueError, match="where the name goes"):
        ClipZeroShot(folder, template="a photo")


def test_one_tower_is_refused(tmp_path: Path) -> None:
    tiny_models.resnet().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="does not see both images and texts"):
        TwoTowers(str(tmp_path), device="cpu")


def test_a_visual_prompt_changes_images_and_learns_alone(towers: TwoTowers, pixels) -> None:
    images = torch.from_numpy(pixels)
    prompt = VisualPrompt(towers, 3).train()
    assert not towers.training
    seen = prompt(images)
    assert (seen - towers.images(images)).abs().max() > 1e-4
    torch.testing.assert_close(seen.norm(dim=-1), torch.ones(6))
    torch.testing.assert_close(towers.images(images), towers.images(images))
    seen[:, 0].sum().backward()
    learnt = [name for name, weight in prompt.named_parameters() if weight.grad is not None]
    assert learnt == ["tokens"]
    torch.testing.assert_close(prompt(images[2:4]), seen[2:4], atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="at least 1"):
        VisualPrompt(towers, 0)


def test_a_dual_prompt_is_both_and_is_learnt_together(towers: TwoTowers, pixels) -> None:
    torch.manual_seed(0)
    prompt = DualPrompt(towers, 2, 3)
    ids, mask = towers.tokens(NAMES)
    images, truth = torch.from_numpy(pixels), torch.tensor([0, 1, 2, 0, 1, 2])
    text = SoftPrompt(towers.model, 2, init=prompt.tokens[:2].detach())
    visual = VisualPrompt(towers, 3)
    with torch.no_grad():
        visual.tokens.copy_(prompt.tokens[2:])
        expected = text.logits(visual(images), ids, mask)
    torch.testing.assert_close(prompt.logits(images, ids, mask).detach(), expected)

    def loss(tokens: torch.Tensor) -> torch.Tensor:
        logits = [prompt.logits(images, ids, mask, each, scale=5.0) for each in tokens]
        return torch.stack([cross_entropy(each, truth) for each in logits])

    before = prompt.tokens.detach().clone()
    regulator = GradientRegulator(prompt.tokens.shape[1], rank=4)
    task = MetaTask(loss, loss, 2)
    history = meta_train(
        prompt.tokens, regulator, lambda _: task, inner_lr=0.05, outer_steps=8, outer_lr=0.02
    )
    assert history.losses[-1] < history.losses[0]
    moved = (prompt.tokens.detach() - before).abs().amax(1)
    assert (moved > 0).all(), "rows of both sides are learnt"


@pytest.fixture(scope="module")
def pacs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of three classes in the folders of PACS, and a table of captions beside them."""
    picture = pytest.importorskip("PIL.Image")
    root = tmp_path_factory.mktemp("data")
    rng, pairs = np.random.default_rng(0), []
    for place, domain in enumerate(("photo", "art_painting", "cartoon", "sketch")):
        for shade, name in enumerate(NAMES):
            own = root / "PACS" / domain / name
            own.mkdir(parents=True)
            for number in range(8):
                noise = rng.integers(0, 60, (20, 16, 3))
                pixels = (noise + 20 * place + 60 * shade).astype(np.uint8)
                picture.fromarray(pixels).save(own / f"{number}.png")
                pairs.append((f"PACS/{domain}/{name}/{number}.png", f"this is a {name} {domain}"))
    # each four times, so that no cluster has fewer rows than a support takes
    lines = ["image,text", *(",".join(pair) for pair in pairs * 4)]
    (root / "captions.csv").write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture
def rows_of(tmp_path: Path):
    def run(study: str, **settings):
        found = find_study(study)
        config = replace(configure(found, "smoke"), **settings)
        lab = Lab(home=tmp_path / "steps", device="cpu", progress=False)
        rows = pd.DataFrame(list(found.run(config, lab)))
        again = Lab(home=tmp_path / "steps", device="cpu", progress=False)
        pd.testing.assert_frame_equal(pd.DataFrame(list(found.run(config, again))), rows)
        assert again.steps.computed == 0
        return rows

    return run


def test_pego_on_pacs_with_clip(rows_of, folder: str, pacs: Path) -> None:
    domains = ("photo", "art_painting", "cartoon", "sketch")
    rows = rows_of(
        "pego", model=folder, images=str(pacs / "PACS"), layout="PACS", sources=domains,
        targets=("sketch",), train=12, validation=4, test=12, adapter_learning_rate=1e-2,
        epochs=2,
    )  # fmt: skip
    assert set(rows["method"]) >= {"pego", "group", "lora", "full-tuning", "linear-probe"}
    assert rows[["score", "floor", "ceiling", "source_loss"]].notna().all().all()
    pego = rows[rows["method"] == "pego"].iloc[0]
    assert pego["merge_error"] < 1e-4
    assert pego["update_norm"] > 0
    # of 16 wide: two blocks, queries and values, two adapters of rank 4
    assert 0 < pego["trained_share"] < 0.5


def test_the_shift_study_asks_clip_about_a_folder(rows_of, folder: str, pacs: Path) -> None:
    rows = rows_of(
        "gpt4v-shift", panels=("images",), backbone=folder, clip=folder, seeds=1, pixels=16,
        folder=str(pacs / "PACS"), layout="PACS", means_per_class=3, images_per_cell=2,
    )  # fmt: skip
    asked = rows[rows["method"].isin(["clip", "clip-template"])]
    assert set(asked["target"]) == {"photo", "art_painting", "cartoon", "sketch"}
    assert len(asked) == 2 * 4 * 2
    assert asked["lost"].isna().all()
    assert asked["shifted"].all()
    assert asked["score"].between(0, 1).all()
    means = rows[(rows["method"] == "class-means") & (rows["amount"] == 0)]
    assert len(means) == 4 * 4
    own = means[~means["shifted"]]
    assert own["score"].mean() > 0.5, "shades are told apart"


def test_meta_prompts_of_clip_learn_from_captions(rows_of, folder: str, pacs: Path) -> None:
    captions = str(pacs / "captions.csv")
    rows = rows_of(
        "gram-prompt", encoder=folder, images=str(pacs / "PACS"), layout="PACS", captions=captions,
        seeds=1, levels=(2, 5), unlabelled=400, rank=8,
    )  # fmt: skip
    assert set(rows["task"]) == {"photo", "art_painting", "cartoon", "sketch"}
    assert set(rows["method"]) == {"random", "meta+regulator", "zero-shot"}
    assert rows[["score", "base", "new", "floor", "ceiling"]].notna().all().all()
    with pytest.raises(UserError, match="go together"):
        rows_of("gram-prompt", images=str(pacs))
