import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from datasets import Dataset
from safetensors.torch import load_file

from generality.compare import METHODS, compare_weak_labels, leaderboard, load_classifier, predict
from generality.compare.methods import applicable
from generality.compare.weak_labels import parts
from generality.errors import UserError
from generality.lab import Lab
from generality.report import summarise_run, write_report

GOOD = ("great", "wonderful", "superb", "charming", "moving", "clever", "brilliant", "warm")
BAD = ("dull", "awful", "tedious", "clumsy", "bland", "weak", "noisy", "flat")
THINGS = ("plot", "acting", "music", "ending", "dialogue", "pace", "cast", "script")
FRAMES = (
    "The {thing} was {word} and the {other} {second}.",
    "I found the {thing} {word}, with a {second} {other}.",
    "A {word} {thing}; even the {other} felt {second}.",
)


def reviews(n: int = 400, seed: int = 0, flipped: float = 0.25) -> pd.DataFrame:
    """Generated reviews, their true label and a weak one that is wrong for a share of them."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(2, size=n)
    texts = [
        str(rng.choice(FRAMES)).format(
            thing=rng.choice(THINGS), other=rng.choice(THINGS),
            word=rng.choice(GOOD if y else BAD), second=rng.choice(GOOD if y else BAD),
        )
        for y in truth
    ]  # fmt: skip
    weak = np.where(rng.random(n) < flipped, 1 - truth, truth)
    sure = np.where(weak == 1, 1, -1) * rng.uniform(0.05, 0.45, size=n)
    names = np.array(["neg", "pos"])
    return pd.DataFrame(
        {"review": texts, "label": names[truth], "weak": names[weak], "p": 0.5 + sure}
    )


def table(frame: pd.DataFrame) -> Dataset:
    return Dataset.from_pandas(frame, preserve_index=False)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(home=tmp_path_factory.mktemp("steps"), device="cpu", progress=False)


@pytest.fixture
def compare(lab: Lab, tmp_path: Path):
    def run(frame: pd.DataFrame, **options):
        options = {"model": "bag-of-words", "seeds": 2, "text": "review", **options}
        return compare_weak_labels(table(frame), lab=lab, root=tmp_path, **options)

    return run


def test_from_weak_labels_to_predictions_on_new_texts(compare, lab: Lab, tmp_path: Path) -> None:
    seen: list[dict] = []
    record = compare(reviews(), label="label", weak_label="weak", on_row=seen.append)

    methods = [
        name
        for name, method in METHODS.items()
        if not (method.same_if_hard or method.via or method.update)
    ]
    assert list(dict.fromkeys(record.rows["method"])) == methods
    assert len(record.rows) == len(seen) == 2 * len(methods)
    naive = record.rows[record.rows["method"] == "naive"]
    assert (naive["score"] > naive["floor"]).all()
    assert record.rows["floor"].mean() == pytest.approx(0.75, abs=0.06)
    first = record.rows.iloc[0]
    assert first["recovered"] == pytest.approx(
        (first["score"] - first["floor"]) / (first["ceiling"] - first["floor"])
    )
    assert first["positive_flips"] - first["negative_flips"] == pytest.approx(
        first["score"] - first["floor"]
    )
    conclusions = record.config["conclusions"]
    assert conclusions[0].startswith(f"Saved: {record.config['winner']}, chosen by")
    assert any(said.startswith("hard is left out") for said in conclusions)
    assert any(said.startswith("product is left out") for said in conclusions)

    new = reviews(200, seed=1)
    answered = predict(record.directory / "best", table(new), lab=lab)
    right = np.mean(np.array(answered["prediction"]) == new["label"].to_numpy())
    assert right > (new["weak"] == new["label"]).mean() + 0.1
    probabilities = np.stack([answered["p_neg"], answered["p_pos"]], axis=1)
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-6)
    np.testing.assert_allclose(probabilities.max(1), answered["probability"], atol=1e-6)
    assert answered["review"] == new["review"].tolist()
    in_run = predict(record.directory, table(new), lab=lab)
    assert in_run["prediction"] == answered["prediction"]


def test_claims_report_and_leaderboard_read_the_run(compare) -> None:
    record = compare(reviews(), label="label", weak_label="weak", seeds=5)
    statements = {claim["statement"]: claim["verdict"] for claim in record.claims}
    chosen = "The winner (chosen by each seed's select part)"
    assert statements[f"{chosen} beats the weak labels"] == "holds"
    assert f"{chosen} beats naive training on the weak labels" in statements

    summary = summarise_run(record)
    assert summary.kind == "recovered"
    assert summary.groups == ("",)  # measurements are not taken for settings
    page = write_report(record.directory).read_text()
    assert "chosen by its mean accuracy on the select parts" in page

    standings = leaderboard(record.rows)
    assert [each.score for each in standings] == sorted((e.score for e in standings), reverse=True)
    won = next(each for each in standings if each.chosen)
    assert won.method == record.config["winner"]
    assert won.select == max(each.select for each in standings)
    assert won.p_floor < 0.05
    assert won.share is not None
    assert won.share.gap
    json.dumps([each.to_dict() for each in standings], allow_nan=False)


def test_a_second_call_computes_nothing_and_changes_nothing(tmp_path: Path) -> None:
    frame = reviews(160)

    def run() -> tuple[Lab, object]:
        lab = Lab(home=tmp_path / "steps", device="cpu", progress=False)
        options = {"text": "review", "label": "label", "weak_probabilities": "p", "seeds": 2}
        return lab, compare_weak_labels(
            table(frame), **options, model="bag-of-words", lab=lab, root=tmp_path / "runs"
        )

    first_lab, first = run()
    kept = {p.name: p.read_bytes() for p in (first.directory / "best").iterdir()}
    rows = (first.directory / "rows.parquet").read_bytes()
    second_lab, second = run()
    assert first_lab.steps.computed > 0
    assert second_lab.steps.computed == 0
    assert second.directory == first.directory
    assert (second.directory / "rows.parquet").read_bytes() == rows
    assert {p.name: p.read_bytes() for p in (second.directory / "best").iterdir()} == kept
    assert second.config == first.config

    frame.loc[0, "review"] = "Another text."
    assert run()[1].directory != first.directory


def test_a_comparison_that_was_stopped_goes_on(tmp_path: Path) -> None:
    def run(stop_after: int | None) -> tuple[Lab, list[str]]:
        lab = Lab(home=tmp_path / "steps", device="cpu", progress=False)
        seen: list[str] = []

        def on_row(row: dict) -> None:
            seen.append(row["method"])
            if len(seen) == stop_after:
                raise KeyboardInterrupt

        record = compare_weak_labels(
            table(reviews(160)), text="review", label="label", weak_label="weak", seeds=2,
            model="bag-of-words", lab=lab, root=tmp_path / "runs", on_row=on_row,
        )  # fmt: skip
        return lab, record.rows["method"].tolist()

    with pytest.raises(KeyboardInterrupt):
        run(stop_after=3)
    (folder,) = (tmp_path / "runs" / "compare").iterdir()
    assert len(pd.read_parquet(folder / "rows.parquet")) == 3
    assert not (folder / "best").exists()
    lab, methods = run(stop_after=None)
    assert len(methods) == 10
    assert lab.steps.reused >= 3  # features, ceiling and the first method


def test_probabilities_bring_the_soft_methods(compare) -> None:
    record = compare(reviews(), label="label", weak_probabilities="p")
    direct = [name for name, method in METHODS.items() if not (method.via or method.update)]
    assert list(dict.fromkeys(record.rows["method"])) == direct
    scores = record.rows.groupby("method")["score"].mean()
    assert scores["naive"] != scores["hard"]
    as_label = compare(reviews(), label="label", weak_label="p", methods=["naive"])
    assert as_label.rows["score"].mean() == scores["naive"]


def test_probability_columns_are_matched_by_name(compare) -> None:
    frame = reviews()
    frame["p_pos"], frame["p_neg"] = frame["p"], 1 - frame["p"]
    options = {"label": "label", "methods": ["naive"]}
    one = compare(frame, weak_probabilities="p", **options)
    two = compare(frame, weak_probabilities=["p_pos", "p_neg"], **options)
    assert one.rows["floor"].tolist() == two.rows["floor"].tolist()
    assert two.rows["floor"].mean() > 0.6


def test_without_truth_it_says_what_cannot_be_known(compare, lab: Lab) -> None:
    frame = reviews()
    record = compare(frame, weak_label="weak")
    assert record.rows[["score", "floor", "ceiling", "recovered"]].isna().all().all()
    assert record.rows["agreement"].between(0.5, 1).all()
    assert (record.rows["weak_loss"] > 0).all()
    conclusions = " ".join(record.config["conclusions"])
    assert "There are no true labels" in conclusions
    assert "not accuracy" in conclusions
    assert f"Saved by default: {record.config['winner']}" in conclusions
    assert record.claims == []
    assert summarise_run(record).kind == "no truth"
    assert all(math.isnan(each.score) for each in leaderboard(record.rows))

    new = reviews(200, seed=1)
    answered = predict(record.directory / "best", table(new), lab=lab)
    assert np.mean(np.array(answered["prediction"]) == new["label"].to_numpy()) > 0.85


def test_partial_truth_measures_where_it_is_known(compare) -> None:
    frame = reviews()
    frame.loc[150:, "label"] = ""
    record = compare(frame, label="label", weak_label="weak")
    assert record.config["config"]["rows_with_truth"] == 150
    assert record.rows["score"].notna().all()
    assert any(said.startswith("250 rows have no truth") for said in record.config["conclusions"])
    about = json.loads((record.directory / "best" / "winner.json").read_text())
    assert about["rows"] == 400


def test_too_little_truth_is_no_measurement(compare) -> None:
    frame = reviews()
    frame.loc[99:, "label"] = None
    record = compare(frame, label="label", weak_label="weak")
    conclusions = record.config["conclusions"]
    assert record.rows["score"].isna().all()
    assert conclusions[0].startswith("There are true labels for 99 rows, fewer than the 100")
    right = (frame["weak"] == frame["label"])[:99].sum()
    assert f"right in {right} of 99" in conclusions[1]


def test_a_weak_model_is_fitted_on_rows_that_are_not_used_again(compare) -> None:
    record = compare(reviews(), label="label", weak_model="bag-of-words")
    assert record.config["config"]["rows"] == 200
    assert any("fitted on 200 of the 400 rows" in said for said in record.config["conclusions"])


def test_a_saved_winner_can_be_the_weak_model(compare) -> None:
    first = compare(reviews(), label="label", weak_label="weak", methods=["naive"])
    new = reviews(200, seed=1)
    new["label"] = new["label"].str.upper()  # matched whatever the case
    record = compare(
        new, label="label", weak_model=str(first.directory / "best"), methods=["naive", "hard"]
    )
    assert record.config["config"]["labels"] == ["NEG", "POS"]
    assert record.config["config"]["rows"] == 200
    assert record.rows["floor"].mean() > 0.85
    codes = reviews(200, seed=1)
    codes["label"] = (codes["label"] == "pos").astype(int)
    by_order = compare(
        codes, label="label", weak_model=str(first.directory / "best"), methods=["naive"]
    )
    assert any("neg is 0, pos is 1" in said for said in by_order.config["conclusions"])
    new["label"] = np.where(new["label"] == "POS", "pos", "fine")
    with pytest.raises(UserError, match=r"classes \(neg, pos\) are not those"):
        compare(new, label="label", weak_model=str(first.directory / "best"))


def test_a_transformers_classifier_can_be_the_weak_model(compare, tmp_path: Path) -> None:
    folder = tiny_classifier(tmp_path / "tiny")
    record = compare(reviews(120), label="label", weak_model=str(folder), methods=["naive"])
    assert record.rows["floor"].notna().all()
    assert load_classifier(folder).label_names == ["neg", "pos"]


def tiny_classifier(folder: Path) -> Path:
    """A sequence classifier of a few thousand random weights, with a word-level tokenizer."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", *GOOD, *BAD, *THINGS]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    model = BertForSequenceClassification(
        BertConfig(
            vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
            intermediate_size=16, id2label={0: "neg", 1: "pos"}, initializer_range=1.0,
        )
    ).eval()  # fmt: skip
    ids = torch.tensor([[words.index(word)] for word in (*GOOD, *BAD)])
    with torch.no_grad():  # so that it says either class about as often
        logits = model(input_ids=ids).logits
        model.classifier.bias[1] += (logits[:, 0] - logits[:, 1]).median()
    model.save_pretrained(folder)
    return folder


def test_the_saved_probe_is_safetensors_and_json(compare) -> None:
    record = compare(reviews(), label="label", weak_label="weak", methods=["naive"])
    best = record.directory / "best"
    assert sorted(path.name for path in best.iterdir()) == ["head.safetensors", "winner.json"]
    tensors = load_file(best / "head.safetensors")
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == {
        "weight": (2, 16384), "mean": (16384,), "scale": (16384,),
    }  # fmt: skip
    about = json.loads((best / "winner.json").read_text())
    assert about["method"] == "naive"
    assert about["label_names"] == ["neg", "pos"]
    assert about["text"] == "review"


def test_parts_are_disjoint_and_in_proportion() -> None:
    truth = np.array([0] * 80 + [1] * 40)
    for seed in range(3):
        train, select, report = parts(truth, seed)
        assert sorted([*train, *select, *report]) == list(range(120))
        assert [len(part) for part in (train, select, report)] == [60, 24, 36]
        assert [int(truth[part].sum()) for part in (train, select, report)] == [20, 8, 12]
    assert parts(truth, 0)[0].tolist() != parts(truth, 1)[0].tolist()


def test_the_winner_is_not_chosen_by_what_it_reports() -> None:
    rows = [
        {"method": m, "seed": s, "score": score, "floor": 0.7, "ceiling": 0.9, "select": select}
        for m, score, select in (("naive", 0.88, 0.80), ("product", 0.80, 0.81))
        for s in range(3)
    ]
    standings = leaderboard(rows)
    assert [(each.method, each.chosen) for each in standings] == [
        ("naive", False), ("product", True),
    ]  # fmt: skip


def test_leaderboard_by_hand() -> None:
    rows = [
        {"method": m, "seed": s, "score": x, "floor": 0.6, "ceiling": 0.9, "select": 0.5}
        for m, scores in (("naive", (0.7, 0.72, 0.74)), ("product", (0.75, 0.78, 0.78)))
        for s, x in enumerate(scores)
    ]
    product, naive = leaderboard(rows)
    assert naive.score == pytest.approx(0.72)
    assert naive.high - naive.score == pytest.approx(4.3027 * 0.02 / math.sqrt(3), abs=1e-5)
    # gains over naive .05, .06, .04: t = .05 / (.01 / √3) = 8.66, one-sided with 2 degrees
    assert product.p_naive == pytest.approx(0.00654, abs=1e-4)
    assert math.isnan(naive.p_naive)
    assert naive.share is not None
    assert naive.share.estimate == pytest.approx(0.4)
    assert leaderboard([]) == []


def test_methods_that_fall_together() -> None:
    assert applicable(None, soft=True, via=True, old_model=True) == (list(METHODS), [])
    assert applicable(["product", "confidence-0.5"], soft=False)[0] == ["naive", "confidence-0.5"]
    weak = np.array([[0.6, 0.4]])
    np.testing.assert_allclose(METHODS["hard"].targets(weak), [[1, 0]])
    np.testing.assert_allclose(METHODS["label-smoothing"].targets(weak), [[0.59, 0.41]], rtol=1e-6)


BASE = {"label": "label", "weak_label": "weak"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({**BASE, "text": "reveiw"}, "no column 'reveiw'. Did you mean 'review'"),
        ({**BASE, "label": "lable"}, "no column 'lable'. Did you mean 'label'"),
        ({**BASE, "weak_label": "weka"}, "no column 'weka'. Did you mean 'weak'"),
        ({"weak_probabilities": "thrid"}, "no column 'thrid'. Did you mean 'third'"),
        ({"label": "label"}, "Nothing says what the weak labels are"),
        ({**BASE, "weak_model": "bag-of-words"}, "not --weak-label and --weak-model"),
        ({**BASE, "weak_probabilities": "p"}, "not --weak-label and --weak-probabilities"),
        ({**BASE, "label": "one"}, "has one class only, 'pos'"),
        ({**BASE, "weak_label": "one"}, "say 'pos' for every row"),
        ({**BASE, "weak_label": "other"}, "no label 'meh'"),
        ({**BASE, "weak_label": "gaps"}, "no weak label in row 4; drop"),
        ({**BASE, "weak_label": "label"}, "is the true label, and cannot be the weak one"),
        ({"label": "label", "weak_probabilities": "review"}, "is the text, and cannot be"),
        ({**BASE, "text": "label"}, "cannot be both the text and the label"),
        ({**BASE, "via": "bag-of-words", "methods": ["naive"]}, "--via is for the method boots"),
        ({"label": "label"}, "say --domain COLUMN instead"),
        ({**BASE, "label": "id"}, "looks like free text or an id"),
        ({"weak_label": "id"}, "looks like free text or an id"),
        ({"weak_probabilities": "nan"}, "a probability is missing"),
        ({"weak_probabilities": "big"}, "outside"),
        ({"label": "label", "weak_probabilities": ["third"] * 3}, "must be the same"),
        ({**BASE, "text": "p"}, "holds float in row 1, not text"),
        ({**BASE, "text": "blank"}, "blank in every row"),
        ({**BASE, "model": "minilm-l7"}, "no model 'minilm-l7'. Did you mean 'minilm-l6'"),
        ({**BASE, "tuning": "fulll"}, "no tuning 'fulll'. Did you mean 'full'"),
        ({**BASE, "tuning": "full"}, "bag-of-words has no weights to tune"),
        ({**BASE, "pooling": "maen"}, "no pooling 'maen'. Did you mean 'mean'"),
        ({**BASE, "methods": ["naiv"]}, "no method 'naiv'. Did you mean 'naive'"),
        ({**BASE, "methods": []}, "no method to compare"),
        ({**BASE, "seeds": 0}, "--seeds 0"),
        ({**BASE, "epochs": 0}, "--epochs 0"),
        ({"label": "label", "weak_model": "bag-of-word"}, "no model 'bag-of-word'"),
        ({"weak_model": "bag-of-words"}, "must be fitted on true labels"),
        ({"label": "label", "weak_model": "no/such/folder"}, "no model folder 'no/such/folder'"),
    ],
)
def test_bad_input_says_what_to_do(compare, options: dict, message: str) -> None:
    frame = reviews(60)
    frame["one"], frame["blank"], frame["third"] = "pos", " ", 1 / 3
    frame["other"] = ["meh", *frame["weak"][1:]]
    frame["gaps"] = [*frame["weak"][:3], None, *frame["weak"][4:]]
    frame["id"] = [f"row {i}" for i in range(60)]
    frame["nan"] = [math.nan, *frame["p"][1:]]
    frame["big"] = frame["p"] * 100
    with pytest.raises(UserError) as error:
        compare(frame, **options)
    assert message in str(error.value)


def test_too_few_rows(compare) -> None:
    with pytest.raises(UserError, match="There are 39 rows; a comparison needs at least 40"):
        compare(reviews(39), weak_label="weak")


def test_empty_texts_are_kept_and_said(compare) -> None:
    frame = reviews(120)
    frame.loc[:2, "review"] = None
    record = compare(frame, label="label", weak_label="weak", methods=["naive"], seeds=2)
    assert "3 of 120 texts are empty; they are kept." in record.config["conclusions"]


def test_predict_refuses_what_it_cannot_do(compare, lab: Lab, tmp_path: Path) -> None:
    record = compare(reviews(), weak_label="weak", methods=["naive"], seeds=1)
    best = record.directory / "best"
    new = table(reviews(5))
    renamed = predict(best, new.rename_column("review", "body"), text="body", lab=lab)
    assert len(renamed["prediction"]) == 5
    for data, path, message in (
        (new.rename_column("review", "revue"), best, "no column 'review'. Did you mean 'revue'"),
        (new.select([]), best, "no rows to predict"),
        (predict(best, new, lab=lab), best, "already has a column 'prediction'"),
        (new, tmp_path / "nowhere", "no classifier at"),
        (new, tmp_path, "holds no classifier"),
    ):
        with pytest.raises(UserError) as error:
            predict(path, data, lab=lab)
        assert message in str(error.value)

    (best / "head.safetensors").write_bytes(b"torn")
    with pytest.raises(UserError, match="damaged"):
        load_classifier(best, lab=lab)
    (best / "winner.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        load_classifier(best, lab=lab)


def test_texts_that_look_like_numbers_are_texts(compare, generality, tmp_path: Path) -> None:
    best = compare(reviews(), weak_label="weak", methods=["naive"], seeds=1).directory / "best"
    (tmp_path / "codes.csv").write_text("review\n10\n20\n")
    answer = generality("predict", best, "codes.csv", "--json")
    assert answer.code == 0, answer.err
    assert [row["review"] for row in json.loads(answer.out)] == ["10", "20"]
    (tmp_path / "scans").mkdir()
    refused = generality("predict", best, "scans")
    assert refused.code == 2
    assert "is a folder, and this winner reads tables" in refused.err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer": 7}, "hidden states 0 to 6"),
        ({"model": "efficientnet-lite0"}, "no model that reads text"),
    ],
)
def test_backbones_that_do_not_fit(compare, options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        compare(reviews(60), weak_label="weak", **{"model": "minilm-l6", **options})


@pytest.mark.slow
@pytest.mark.parametrize("tuning", ["probe", "full", "lora"])
def test_minilm_end_to_end(lab: Lab, tmp_path: Path, tuning: str) -> None:
    record = compare_weak_labels(
        table(reviews(120)), text="review", label="label", weak_label="weak", tuning=tuning,
        seeds=1, methods=["naive", "confidence-0.5"], epochs=1, max_length=32, lab=lab,
        root=tmp_path,
    )  # fmt: skip
    assert record.rows["score"].notna().all()
    answered = predict(record.directory / "best", table(reviews(20, seed=1)), lab=lab)
    assert set(answered["prediction"]) <= {"neg", "pos"}
    if tuning == "full":
        from transformers import AutoModel

        assert AutoModel.from_pretrained(record.directory / "best") is not None
