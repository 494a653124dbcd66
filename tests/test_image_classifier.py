"""Image networks with a new head: what is adapted, and that they are saved and read again."""

from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from torch import nn

import tiny_models
from generality.errors import UserError
from generality.models import EfficientNetLite
from generality.models.image_classifier import ImageClassifier, adapted_layers
from generality.models.vision_backbone import VisionBackbone


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("resnet")
    tiny_models.resnet().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def lite(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("lite")
    torch.manual_seed(0)
    EfficientNetLite(0, num_classes=3).save_pretrained(folder)
    return str(folder)


def step(classifier: ImageClassifier, images: torch.Tensor) -> None:
    """Two plain steps on made-up labels: the first moves the head only, for it starts at 0."""
    trained = [p for p in classifier.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=0.01)
    for _ in range(2):
        optimizer.zero_grad()
        wanted = torch.arange(len(images)) % classifier.head.out_features
        nn.functional.cross_entropy(classifier(images), wanted).backward()
        optimizer.step()


@pytest.mark.parametrize(
    ("backbone", "tuning"),
    [
        ("resnet", "probe"),
        ("resnet", "lora"),
        ("resnet", "full"),
        ("lite", "lora"),
        ("lite", "full"),
    ],
)
def test_it_is_tuned_saved_and_read_again(
    backbone: str, tuning: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    name = request.getfixturevalue(backbone)
    classifier = ImageClassifier.from_name(name, 3, tuning=tuning, device="cpu").eval()
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    before = classifier.features(images).detach()
    np.testing.assert_allclose(classifier.predict_proba(images.numpy()), 1 / 3, rtol=1e-6)
    torch.testing.assert_close(before, VisionBackbone(name).eval()(images))
    step(classifier, images)
    moved = not torch.equal(before, classifier.features(images))
    assert moved == (tuning != "probe")
    classifier.save_pretrained(tmp_path / "saved", label_names=["a", "b", "c"])
    again = ImageClassifier.from_pretrained(tmp_path / "saved", device="cpu")
    assert again.label_names == ["a", "b", "c"]
    expected = classifier.predict_proba(images.numpy())
    np.testing.assert_allclose(again.predict_proba(images.numpy()), expected, atol=1e-6)


def test_peft_reads_the_adapters(resnet: str, tmp_path: Path) -> None:
    classifier = ImageClassifier.from_name(resnet, 2, tuning="lora", device="cpu").eval()
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    step(classifier, images)
    classifier.save_pretrained(tmp_path / "saved", label_names=["a", "b"])
    bare = VisionBackbone(resnet).eval()
    bare.model = PeftModel.from_pretrained(bare.model, str(tmp_path / "saved")).eval()
    torch.testing.assert_close(bare(images), classifier.features(images))


def test_grouped_and_self_padding_convolutions_are_not_adapted() -> None:
    names = adapted_layers(EfficientNetLite(0))
    assert names
    assert not any("depthwise" in name or "stem" in name or name == "_fc" for name in names)


def test_what_cannot_be_adapted_or_read(resnet: str, tmp_path: Path) -> None:
    body = VisionBackbone(resnet)
    with pytest.raises(ValueError, match="tuning is one of"):
        ImageClassifier(body, 2, tuning="half")
    with pytest.raises(ValueError, match="3 classes, but 1 names"):
        ImageClassifier(body, 3).save_pretrained(tmp_path / "x", label_names=["a"])
    body.model = nn.Sequential(nn.Conv2d(2, 2, 3, groups=2))
    with pytest.raises(UserError, match="no linear layer"):
        ImageClassifier(body, 2, tuning="lora")
    with pytest.raises(UserError, match="holds no saved classifier"):
        ImageClassifier.from_pretrained(tmp_path)


def test_images_are_normalised_as_the_model_asks(resnet: str, tmp_path: Path) -> None:
    tiny_models.resnet().save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(
        '{"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25]}'
    )
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    body = VisionBackbone(str(tmp_path)).eval()
    expected = tiny_models.resnet()(pixel_values=(images - 0.5) / 0.25).pooler_output.flatten(1)
    torch.testing.assert_close(body(images), expected)
