"""Image networks as bodies, and the study that trains them whole."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from generality.lab import Lab
from generality.models.vision_backbone import VisionBackbone
from generality.studies import configure, find_study, run_study


@pytest.fixture(scope="module")
def tiny_resnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import ResNetConfig, ResNetModel

    folder = tmp_path_factory.mktemp("resnet")
    config = ResNetConfig(embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic")
    torch.manual_seed(0)
    ResNetModel(config).save_pretrained(folder)
    return folder


def test_bytes_and_floats_give_the_same_features(tiny_resnet: Path) -> None:
    body = VisionBackbone(str(tiny_resnet)).eval()
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    assert body.width == 8
    torch.testing.assert_close(body(images), body(images.float() / 255))
    assert all(p.requires_grad for p in body.parameters())
    names = (str(tiny_resnet), str(tiny_resnet), f"scratch:{tiny_resnet}")
    weights = [
        torch.cat([p.flatten() for p in VisionBackbone(name).parameters()]) for name in names
    ]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.slow
def test_diversification_trains_an_image_network_on_waterbirds(
    tiny_resnet: Path, tmp_path: Path
) -> None:
    image = pytest.importorskip("PIL.Image")
    folder, rng = tmp_path / "waterbirds", np.random.default_rng(0)
    folder.mkdir()
    rows = [
        {"img_filename": f"{split}{y}{place}{i}.png", "y": y, "split": split, "place": place}
        for split in (0, 1, 2) for y in (0, 1) for place in (0, 1) for i in range(3)
    ]  # fmt: skip
    for row in rows:
        pixels = rng.integers(0, 255, (20, 20, 3), dtype=np.uint8)
        image.fromarray(pixels).save(folder / row["img_filename"])
    pd.DataFrame(rows).to_csv(folder / "metadata.csv")
    study = find_study("diversification")
    config = configure(study, "smoke", [
        "data=waterbirds", f"data_path={folder}", f"networks={tiny_resnet}", "image_steps=2",
        "methods=dbat,divdis", "seeds=1", "image_ratios=0.5", "batch=4", "unlabelled_batch=4",
        "optimizer=sgd",
    ])  # fmt: skip
    lab = Lab(home=tmp_path / "steps", device="cpu", progress=False)
    found = run_study(study, config, lab, root=tmp_path / "runs").rows
    assert set(found["method"]) == {"dbat", "divdis"}
    assert found["score"].between(0, 1).all()
