"""Skills: captions grown, scenes drawn and read, experts trained and merged."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig
from safetensors.torch import save_file
from torch import nn

from generality.benchmarks.worlds.scenes import (
    SKILLS,
    answer_scene,
    draw_scene,
    read_scene,
    scene_caption,
    scene_questions,
)
from generality.errors import UserError
from generality.experiments.pipeline_school import PipelineExperts, question_text, visual_judge
from generality.experiments.scene_painter import (
    SceneNetwork,
    ScenePainter,
    encode_captions,
    train_painter,
)
from generality.measures.dependency_graph_score import category_report, dependency_graph_scores
from generality.selection.self_instruct import SelfInstructPool, rouge_l
from generality.training.skill_experts import (
    adapter_conflict,
    merge_experts,
    train_skill_experts,
    with_adapter,
)


@given(st.sampled_from(("simple", *SKILLS)), st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_drawn_scenes_show_what_their_captions_say(skill, seed):
    rng = np.random.default_rng(seed)
    caption = scene_caption(skill, rng)
    picture = draw_scene(caption, rng)
    assert all(answer_scene(caption, picture)), caption
    assert not any(answer_scene(caption, np.zeros_like(picture)))
    assert encode_captions([caption]).shape == (1, 16)


def test_what_a_picture_lacks_is_seen():
    rng = np.random.default_rng(0)
    caption = "one red ring left of one blue cross"
    swapped = draw_scene("one blue cross left of one red ring", rng)
    kinds = [q.kind for q in scene_questions(caption)]
    answers = dict(zip(kinds, answer_scene(caption, swapped), strict=True))
    assert answers["colour"]
    assert not answers["relation"]
    noise = np.random.default_rng(0).random((9, 9, 3))
    assert len(read_scene(noise)) < 3
    with pytest.raises(ValueError, match="does not name"):
        draw_scene("nothing", rng)
    with pytest.raises(ValueError, match="unknown words"):
        encode_captions(["a purple cow"])


def test_dependent_questions():
    assert dependency_graph_scores([True] * 2 + [False, True], [[], [0], [1], [2]]) == [1, 1, 0, 0]
    # a child that stands before its parent
    assert dependency_graph_scores([True, False], [[1], []]) == [0, 0]
    with pytest.raises(ValueError, match="circle"):
        dependency_graph_scores([True, True], [[1], [0]])
    with pytest.raises(ValueError, match="answers to"):
        dependency_graph_scores([True], [])
    for wrong in (-1, 2):
        with pytest.raises(ValueError, match="no question"):
            dependency_graph_scores([True, True], [[], [wrong]])
    assert category_report([[1.0], [0.0]], [["a"], ["b"]]) == {"all": 0.5, "a": 1.0, "b": 0.0}


def test_rouge_l_by_hand():
    assert rouge_l("the cat sat on the mat", "the cat on a mat") == pytest.approx(8 / 11)
    assert rouge_l("A, b!", "a b") == 1
    assert rouge_l("", "a") == 0
    assert rouge_l("Рыжий кот", "рыжий пёс") == 0.5


def test_a_pool_takes_what_is_new():
    texts = iter(["a red fox", "a red fox jumps", "six tall ships", "six tall ships", "blue"])
    pool = SelfInstructPool(["a red fox"], lambda shown: [next(texts, "blue")], max_rouge_l=0.8)
    assert pool.grow(9, patience=3) == ["six tall ships", "blue"]
    assert pool.refused >= 3
    signs = iter(["犬", "犬", "!?", "!?"])
    assert SelfInstructPool(["犬"], lambda shown: [next(signs, "")]).grow(2, patience=3) == ["!?"]
    seen: list[list[str]] = []
    pool = SelfInstructPool(["a", "b", "c", "d"], lambda shown: seen.append(shown) or [])
    assert pool.grow(1, patience=2) == []
    assert [len(shown) for shown in seen] == [3, 3]
    with pytest.raises(ValueError, match="one prompt"):
        SelfInstructPool([], lambda shown: [])


def adapter(folder: Path, a: list, b: list, base: Path) -> Path:
    folder.mkdir()
    stem = "base_model.model.0"
    save_file(
        {f"{stem}.lora_A.weight": torch.tensor(a), f"{stem}.lora_B.weight": torch.tensor(b)},
        folder / "adapter_model.safetensors",
    )
    config = {"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": ["0"],
              "base_model_name_or_path": str(base)}  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def test_the_mean_of_products(tmp_path: Path):
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text("{}")
    model = nn.Sequential(nn.Linear(2, 2, bias=False))
    nn.init.zeros_(model[0].weight)
    save_file(model.state_dict(), base / "model.safetensors")
    first = adapter(tmp_path / "first", [[1.0, 2.0]], [[1.0], [0.0]], base)
    second = adapter(tmp_path / "second", [[0.0, -1.0]], [[2.0], [1.0]], base)
    merged = with_adapter(model, merge_experts([first, second], base=base))
    assert merged[0].weight.tolist() == [[0.5, 0.0], [0.0, -0.5]]
    assert model[0].weight.abs().sum() == 0
    from peft import PeftModel

    peft = PeftModel.from_pretrained(copy.deepcopy(model), first, adapter_name="first")
    peft.load_adapter(second, "second")
    for how, delta in (("cat", [[0.5, 0], [0, -0.5]]), ("linear", [[1.5, 1.5], [0.5, 0.5]])):
        peft.add_weighted_adapter(["first", "second"], [0.5, 0.5], how, combination_type=how)
        made = peft.base_model.model[0].get_delta_weight(how)
        torch.testing.assert_close(made, torch.tensor(delta))  # linear is another thing
    cosine = adapter_conflict([first, second], base=base)[0, 1]
    assert cosine == pytest.approx(-4 / np.sqrt(5 * 5))


def test_experts_of_convolutions(tmp_path: Path):
    from peft import PeftModel

    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.Flatten(), nn.Linear(12, 2))
    config = LoraConfig(r=2, lora_alpha=3, target_modules=["0", "2"], init_lora_weights=False)
    experts = train_skill_experts(
        model, {"a": 0, "b": 1}, tmp_path, config=config, train=lambda adapted, _: None
    )
    x = torch.randn(4, 2, 2, 2)
    made = with_adapter(model, merge_experts([experts["a"]], base=tmp_path / "base"))
    wanted = PeftModel.from_pretrained(copy.deepcopy(model), experts["a"]).merge_and_unload()
    torch.testing.assert_close(made(x), wanted(x))
    assert not torch.allclose(made(x), model(x), atol=1e-3)
    assert adapter_conflict(list(experts.values()), base=tmp_path / "base").shape == (2, 2)


def test_experts_of_a_painter(tmp_path: Path):
    torch.manual_seed(0)
    painter = ScenePainter(SceneNetwork(16, blocks=1, heads=2), steps=3)
    before = {name: p.clone() for name, p in painter.network.named_parameters()}
    rng = np.random.default_rng(0)
    data = {}
    for skill in SKILLS[:2]:
        captions = [scene_caption(skill, rng) for _ in range(8)]
        data[skill] = captions, np.stack([draw_scene(c, rng) for c in captions])

    def train(network, pairs):
        return train_painter(painter, network, *pairs, steps=5, learning_rate=1e-2, seed=0)

    config = LoraConfig(r=2, target_modules=["qkv", "caption.0"])
    experts = train_skill_experts(painter.network, data, tmp_path, config=config, train=train)
    for name, parameter in painter.network.named_parameters():
        assert torch.equal(parameter, before[name])
    alone = [
        with_adapter(painter.network, merge_experts([place], base=tmp_path / "base"))
        for place in experts.values()
    ]
    both = with_adapter(
        painter.network, merge_experts(list(experts.values()), base=tmp_path / "base")
    )
    name = "blocks.0.qkv.weight"
    mean = sum(dict(m.named_parameters())[name] for m in alone) / 2
    assert not torch.equal(mean, before[name])
    torch.testing.assert_close(dict(both.named_parameters())[name], mean)
    pictures = ScenePainter(both, steps=3).paint(["one red ring"], seed=0)
    assert pictures.shape == (1, 9, 9, 3)
    assert 0 <= pictures.min() <= pictures.max() <= 1


def test_a_painter_learns():
    torch.manual_seed(0)
    painter = ScenePainter(SceneNetwork(16, blocks=1, heads=2))
    rng = np.random.default_rng(0)
    captions = ["one red square"] * 4
    pictures = np.stack([draw_scene(c, rng) for c in captions])
    losses = [
        train_painter(painter, painter.network, captions, pictures, steps=n, learning_rate=5e-3,
                      seed=0)
        for n in (2, 60)
    ]  # fmt: skip
    assert losses[1] < losses[0] / 2


def test_questions_in_words():
    asked = scene_questions("two red cross above one blue ring")
    assert question_text(asked[2]) == "Are there exactly two red crosses?"
    assert question_text(asked[-1]) == "Is the red cross above the blue ring?"


def tiny_pipeline(tmp_path: Path):
    diffusers = pytest.importorskip("diffusers")
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast

    words = ["<end>", *"one two red blue ring cross above and".split()]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<end>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    torch.manual_seed(0)
    return diffusers.StableDiffusionPipeline(
        vae=diffusers.AutoencoderKL(
            block_out_channels=(8,), norm_num_groups=4, latent_channels=4,
            down_block_types=("DownEncoderBlock2D",), up_block_types=("UpDecoderBlock2D",),
        ),
        text_encoder=CLIPTextModel(
            CLIPTextConfig(
                vocab_size=16, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
                num_attention_heads=2, max_position_embeddings=8, projection_dim=8,
            )
        ),
        tokenizer=PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, pad_token="<end>", eos_token="<end>", model_max_length=8
        ),
        unet=diffusers.UNet2DConditionModel(
            sample_size=8, block_out_channels=(8, 8), layers_per_block=1, cross_attention_dim=8,
            attention_head_dim=2, norm_num_groups=4,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        ),
        scheduler=diffusers.DDIMScheduler(num_train_timesteps=20),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


def test_a_diffusers_pipeline(tmp_path: Path):
    pipeline = tiny_pipeline(tmp_path)
    pipeline.set_progress_bar_config(disable=True)
    ask = pipeline.__class__.__call__
    pipeline.__class__ = type(
        "Fast", (pipeline.__class__,),
        {"__call__": lambda self, *a, **k: ask(self, *a, num_inference_steps=2, **k)},
    )  # fmt: skip
    experts = PipelineExperts(pipeline, rank=2, resolution=16, micro_batch=2)
    captions = ["one red ring", "two blue cross"]
    own = experts.paint(captions)
    for name in ("first", "second"):
        loss = experts.train(name, captions, own, steps=2, batch=4, learning_rate=0.5)
        assert np.isfinite(loss)
    sample = torch.zeros(1, 4, 8, 8), torch.tensor(3), torch.zeros(1, 8, 8)

    def predicted(*names):
        experts.use(names)
        with torch.no_grad():
            return pipeline.unet(*sample).sample

    base, first = predicted(), predicted("first")
    assert not torch.allclose(base, first)
    assert not torch.allclose(first, predicted("first", "second"))
    assert torch.equal(base, predicted())  # nothing of the model itself has changed
    layer = next(m for m in pipeline.unet.modules() if hasattr(m, "lora_A") and "first" in m.lora_A)
    experts.use(["first", "second"])
    assert layer.scaling == {"first": 0.5, "second": 0.5}
    experts.save("first", tmp_path / "first")
    assert list((tmp_path / "first").glob("*.safetensors"))


def test_a_pipeline_that_is_none():
    with pytest.raises(UserError, match="has no unet"):
        PipelineExperts(object())


def test_a_judge_that_is_none(tmp_path: Path):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    for name in ("hf:no such/judge", str(tmp_path / "nowhere"), str(tmp_path)):
        with pytest.raises(UserError, match="cannot judge pictures") as told:
            visual_judge(name)
        assert "\n" not in str(told.value)
