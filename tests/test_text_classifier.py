import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from generality.errors import UserError
from generality.models import TextClassifier

WORDS = (
    *("[PAD]", "[BOS]", "[EOS]", "[UNK]", "a", "the", "good", "bad"),
    *("film", "book", "was", "very", "not", "quite", "dull", "fine"),
)
TEXTS = [
    "the film was very good",
    "bad",
    "a book",
    "the book was not good not bad quite fine",
    "",
    "dull dull dull film",
]
SIZES: dict[str, Any] = {
    "vocab_size": len(WORDS),
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 32,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


def llama() -> LlamaForCausalLM:
    return LlamaForCausalLM(LlamaConfig(**SIZES, num_key_value_heads=1))


def bert() -> BertModel:
    return BertModel(BertConfig(**SIZES))


def gpt2() -> GPT2LMHeadModel:
    config = GPT2Config(
        vocab_size=len(WORDS), n_embd=16, n_layer=2, n_head=2, n_positions=32,
        bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    return GPT2LMHeadModel(config)


MAKERS = {"llama": llama, "bert": bert, "gpt2": gpt2}


@pytest.fixture(scope="module")
def backbones(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders of tiny random models with a tokenizer of sixteen words."""
    torch.manual_seed(0)
    folders = {}
    backend = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    backend.pre_tokenizer = Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="[EOS]", unk_token="[UNK]", pad_token="[PAD]"
    )
    for name, make in MAKERS.items():
        folder = tmp_path_factory.mktemp(name)
        make().save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        folders[name] = str(folder)
    return folders


@pytest.fixture
def make(backbones: dict[str, str]) -> Callable[..., TextClassifier]:
    def from_name(name: str, **options: Any) -> TextClassifier:
        return TextClassifier.from_name(backbones[name], 3, device="cpu", **options)

    return from_name


def step(classifier: TextClassifier, *, times: int = 1) -> None:
    """Gradient steps on all texts with labels 0, 1, 2, 0, 1, 2."""
    batch = classifier.collate([{"input_ids": ids} for ids in classifier.tokenize(TEXTS)])
    parameters = [p for p in classifier.parameters() if p.requires_grad]
    optimiser = torch.optim.Adam(parameters, lr=0.02)
    for _ in range(times):
        loss = torch.nn.functional.cross_entropy(
            classifier(**batch), torch.tensor([0, 1, 2, 0, 1, 2])
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


def body_of(classifier: TextClassifier) -> dict[str, torch.Tensor]:
    return {
        name: value.clone()
        for name, value in classifier.model.state_dict().items()
        if "lora_" not in name
    }


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("tuning", ["probe", "lora", "full"])
def test_an_untrained_head_knows_nothing(make, name: str, tuning: str):
    probabilities = make(name, tuning=tuning).predict_proba(TEXTS)
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities, np.full((6, 3), 1 / 3), atol=1e-7)


@pytest.mark.parametrize("name", MAKERS)
def test_logits_are_the_head_on_the_pooled_last_state(make, name: str):
    classifier = make(name).eval()
    torch.nn.init.normal_(classifier.head.weight)
    rows = classifier.tokenize(TEXTS[:4])
    expected = []
    for row in rows:  # one by one, without padding
        states = classifier.body(input_ids=torch.tensor([row])).last_hidden_state[0]
        expected.append(classifier.head(states.mean(0) if name == "bert" else states[-1]))
    batch = classifier.collate([{"input_ids": row, "label": 1} for row in rows])
    assert batch.keys() == {"input_ids", "attention_mask"}
    assert batch["attention_mask"].sum(1).tolist() == [5, 1, 2, 9]
    torch.testing.assert_close(classifier(**batch), torch.stack(expected), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", MAKERS)
def test_a_probe_trains_only_the_head_and_stays_in_eval_mode(make, name: str):
    classifier = make(name, tuning="probe", layer=1).train()
    before = body_of(classifier)
    assert classifier.training
    assert not classifier.model.training
    step(classifier, times=2)
    for key, value in body_of(classifier).items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0)
    assert classifier.head.weight.abs().sum() > 0
    assert all(p.grad is None for p in classifier.model.parameters())


@pytest.mark.parametrize("name", MAKERS)
def test_lora_leaves_the_weights_and_trains_adapters(make, name: str):
    classifier = make(name, tuning="lora", lora_rank=2)
    before = body_of(classifier)
    trainable = {n for n, p in classifier.named_parameters() if p.requires_grad}
    assert "head.weight" in trainable
    assert all("lora_" in n for n in trainable - {"head.weight"})
    assert not any("lm_head" in n for n in trainable)
    step(classifier, times=3)
    for key, value in body_of(classifier).items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0)
    moved = [p.abs().sum() > 0 for n, p in classifier.named_parameters() if "lora_B" in n]
    assert any(moved)


def test_the_seed_sets_the_adapters_and_leaves_the_global_generator_alone(make):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, again, other = (make("llama", tuning="lora", seed=seed) for seed in (1, 1, 2))
    torch.testing.assert_close(torch.rand(3), expected)

    def adapters(classifier: TextClassifier) -> torch.Tensor:
        values = [p.flatten() for n, p in classifier.named_parameters() if "lora_A" in n]
        return torch.cat(values)

    assert torch.equal(adapters(first), adapters(again))
    assert not torch.equal(adapters(first), adapters(other))


@pytest.mark.parametrize("name", MAKERS)
def test_full_tuning_fits_six_texts(make, name: str):
    classifier = make(name)
    step(classifier, times=40)
    assert classifier.predict_proba(TEXTS).argmax(1).tolist() == [0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize("name", MAKERS)
def test_predictions_do_not_depend_on_order_batches_or_mode(make, name: str):
    classifier = make(name).train()
    step(classifier, times=5)
    probabilities = classifier.predict_proba(TEXTS, batch_size=2)
    assert classifier.training
    order = [3, 0, 5, 1, 4, 2]
    shuffled = classifier.predict_proba([TEXTS[i] for i in order], batch_size=5)
    np.testing.assert_allclose(shuffled, probabilities[order], atol=1e-5)
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-5)
    assert classifier.predict_proba([]).shape == (0, 3)
    cut = classifier.predict_proba(["bad film"], max_length=1)
    np.testing.assert_allclose(cut, classifier.predict_proba(["bad"]), atol=1e-5)


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("tuning", ["probe", "lora", "full"])
def test_saved_and_loaded_it_says_the_same(make, tmp_path: Path, name: str, tuning: str):
    classifier = make(name, tuning=tuning, layer=-2 if tuning == "probe" else -1)
    step(classifier, times=3)
    folder = tmp_path / "best"
    classifier.save_pretrained(folder, label_names=["x", "y", "z"])
    classifier.save_pretrained(folder, label_names=["neg", "neutral", "pos"])  # replaces it
    loaded = TextClassifier.from_pretrained(folder, device="cpu")
    assert loaded.label_names == ["neg", "neutral", "pos"]
    assert (loaded.tuning, loaded.layer) == (classifier.tuning, classifier.layer)
    assert not loaded.training
    np.testing.assert_allclose(
        loaded.predict_proba(TEXTS), classifier.predict_proba(TEXTS), atol=1e-6
    )
    assert [path.name for path in tmp_path.iterdir()] == ["best"]
    assert load_file(folder / "head.safetensors")["weight"].shape == (3, 16)
    assert (folder / "model.safetensors").exists() == (tuning == "full")
    assert (folder / "adapter_model.safetensors").exists() == (tuning == "lora")


def test_a_probe_finds_a_local_backbone_from_any_folder(
    backbones: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(Path(backbones["bert"]).parent)
    relative = f"./{Path(backbones['bert']).name}"
    probe = TextClassifier.from_name(relative, 3, tuning="probe", device="cpu")
    probe.save_pretrained(tmp_path / "best", label_names="abc")
    monkeypatch.chdir(tmp_path)
    assert TextClassifier.from_pretrained("best", device="cpu").name == backbones["bert"]


def test_what_is_theirs_loads_with_transformers_and_peft(make, backbones, tmp_path: Path):
    from peft import PeftModel

    full, lora = make("llama"), make("llama", tuning="lora")
    for classifier, folder in ((full, tmp_path / "full"), (lora, tmp_path / "lora")):
        step(classifier, times=2)
        classifier.save_pretrained(folder, label_names="abc")
    ids = torch.tensor([[4, 8, 10]])
    expected = full.eval().body(input_ids=ids).last_hidden_state
    theirs = AutoModel.from_pretrained(tmp_path / "full")
    torch.testing.assert_close(theirs(input_ids=ids).last_hidden_state, expected)

    config = json.loads((tmp_path / "lora" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == backbones["llama"]
    base = AutoModelForCausalLM.from_pretrained(backbones["llama"])
    adapted = PeftModel.from_pretrained(base, tmp_path / "lora").eval()
    expected = lora.eval().model(input_ids=ids).logits
    torch.testing.assert_close(adapted(input_ids=ids).logits, expected)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_generative_loss_is_that_of_transformers_and_goes_down(make, name: str):
    classifier = make(name).eval()
    batch = classifier.collate([{"input_ids": ids} for ids in classifier.tokenize(TEXTS)])
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    expected = classifier.model(**batch, labels=labels).loss
    before = classifier.generative_loss(**batch)
    torch.testing.assert_close(before, expected)
    optimiser = torch.optim.Adam(classifier.parameters(), lr=0.01)
    for _ in range(10):
        optimiser.zero_grad()
        classifier.generative_loss(**batch).backward()
        optimiser.step()
    assert classifier.generative_loss(**batch) < before - 0.5


def test_generative_loss_of_single_tokens_is_zero_and_an_encoder_has_none(make):
    one = {"input_ids": torch.tensor([[4]]), "attention_mask": torch.tensor([[1]])}
    assert make("llama").generative_loss(**one).item() == 0
    with pytest.raises(ValueError, match="does not predict next tokens"):
        make("bert").generative_loss(**one)


def test_mistakes_are_named(make, tmp_path: Path):
    with pytest.raises(ValueError, match="probe, lora, full"):
        make("bert", tuning="adapters")
    with pytest.raises(ValueError, match="mean, last, cls"):
        make("bert", pooling="max")
    with pytest.raises(ValueError, match=r"layer is in \[-3, 2\]"):
        make("bert", layer=3)
    with pytest.raises(ValueError, match="3 classes, but 2 names"):
        make("bert").save_pretrained(tmp_path / "x", label_names=["a", "b"])
    bare = TextClassifier(bert(), 3, tuning="probe")
    with pytest.raises(ValueError, match="by name"):
        bare.save_pretrained(tmp_path / "x", label_names="abc")
    with pytest.raises(ValueError, match=r"set \.tokenizer first"):
        bare.predict_proba(["a"])
    with pytest.raises(UserError, match="no language model"):
        TextClassifier.from_name("bag-of-words", 2)


def test_a_folder_with_other_files_is_left_alone(make, tmp_path: Path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(UserError, match="holds other files"):
        make("bert").save_pretrained(tmp_path, label_names="abc")
    assert (tmp_path / "thesis.tex").read_text() == "mine"


def test_a_failed_save_leaves_the_last_one(make, tmp_path: Path, monkeypatch):
    classifier = make("bert")
    classifier.save_pretrained(tmp_path / "best", label_names="abc")
    before = (tmp_path / "best" / "classifier.json").read_text()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(classifier.tokenizer, "save_pretrained", full)
    with pytest.raises(OSError, match="No space left"):
        classifier.save_pretrained(tmp_path / "best", label_names="xyz")
    assert (tmp_path / "best" / "classifier.json").read_text() == before
    assert [path.name for path in tmp_path.iterdir()] == ["best"]
    TextClassifier.from_pretrained(tmp_path / "best", device="cpu")


@pytest.mark.parametrize("broken", ["nothing", "json", "head", "adapters"])
def test_a_folder_that_holds_no_classifier_is_said_plainly(make, tmp_path: Path, broken: str):
    folder = tmp_path / "best"
    if broken != "nothing":
        make("llama", tuning="lora").save_pretrained(folder, label_names="abc")
    if broken == "json":
        saved = json.loads((folder / "classifier.json").read_text())
        (folder / "classifier.json").write_text(json.dumps(saved)[:-9])
    elif broken == "head":
        (folder / "head.safetensors").write_bytes(b"torn")
    elif broken == "adapters":
        (folder / "adapter_model.safetensors").write_bytes(b"torn")
    with pytest.raises(UserError, match="holds no saved"):
        TextClassifier.from_pretrained(folder, device="cpu")
