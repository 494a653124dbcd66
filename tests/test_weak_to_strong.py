import numpy as np
import pytest

from generality.benchmarks import TransferTask, load_transfer_task
from generality.errors import UserError
from generality.estimators import ProbeLadder
from generality.lab import Lab
from generality.studies import configure, find_study
from generality.studies.supervise.weak_to_strong import CLAIMS, Config, measured

STUDY = find_study("weak-to-strong")


def test_halves_are_disjoint_and_drawn_anew_by_each_seed() -> None:
    task = TransferTask(["x"] * 50, np.zeros(50, int), 2, 10, 20, np.arange(30, 50))
    supervised, transfer = task.halves(0)
    assert len(supervised) == 10
    assert len(transfer) == 20
    assert set(supervised) | set(transfer) == set(range(30))
    assert not np.array_equal(supervised, task.halves(1)[0])


def test_too_small_a_task_says_so() -> None:
    with pytest.raises(UserError, match="training texts"):
        load_transfer_task("tweets", supervised=10_000, transfer=1, test=1)
    with pytest.raises(UserError, match="Did you mean 'movie'"):
        load_transfer_task("movies", supervised=1, transfer=1, test=1)


def test_a_task_that_cannot_be_had_is_known_before_work_on_another(tmp_path) -> None:
    config = configure(STUDY, "smoke", ["tasks=movie,tweets", "transfer=4000"])
    lab = Lab(device="cpu", progress=False, home=tmp_path)
    with pytest.raises(UserError, match="The task 'tweets' has"):
        next(STUDY.run(config, lab))
    assert lab.steps.computed == 0


def test_rows_measure_against_the_truth() -> None:
    truth = np.array([0, 0, 1, 1])
    supervisor, student, ceiling = (
        np.eye(2)[[0, 1, 1, 0]],
        np.eye(2)[[0, 1, 1, 1]],
        np.eye(2)[truth],
    )
    row = measured(truth, student, ceiling, supervisor)
    assert (row["floor"], row["score"], row["ceiling"]) == (0.5, 0.75, 1.0)
    assert (row["agreement"], row["copied_errors"]) == (0.75, 0.5)


@pytest.fixture(scope="module")
def bbc_rows() -> list[dict]:
    settings = ["tasks=bbc", "tuned_methods=naive,confidence-0.75", "tuned_epochs=1"]
    config = configure(STUDY, "smoke", settings)
    return list(STUDY.run(config, Lab(device="cpu", progress=False)))


def test_five_classes_run_through_every_loss_and_tuning(bbc_rows: list[dict]) -> None:
    assert {row["method"] for row in bbc_rows} == {
        "naive", "hard", "confidence-0.5", "confidence-0.75", "product",
    }  # fmt: skip
    assert {row["tuning"] for row in bbc_rows} == {"probe", "full"}
    assert all(0 <= row[name] <= 1 for row in bbc_rows for name in ("score", "floor", "ceiling"))
    probes = [row for row in bbc_rows if row["tuning"] == "probe"]
    assert np.mean([row["ceiling"] for row in probes]) > 0.4  # five classes: chance is 0.2


def test_students_learn_only_from_the_supervisors_labels_of_the_transfer_half(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = []
    original = Lab.probe

    def spy(self, features, rows, targets, **options):  # type: ignore[no-untyped-def]
        seen.append((rows, targets))
        return original(self, features, rows, targets, **options)

    monkeypatch.setattr(Lab, "probe", spy)
    task = load_transfer_task("movie", supervised=64, transfer=96, test=128)
    ladder = {"bag-of-words": 0, "minilm-l6": 0, "minilm-l6-again": 0}
    monkeypatch.setattr(
        Lab, "embed", lambda self, model, texts, **_: np.eye(len(texts), dtype="f4")
    )
    probes = ProbeLadder(task, Lab(device="cpu", progress=False), ladder, seeds=2)
    assert probes.between("bag-of-words", "minilm-l6-again") == ("minilm-l6",)
    assert probes.between("bag-of-words", "minilm-l6") == ()
    probes.student("minilm-l6", probes.labels("bag-of-words"), epochs=1)
    (supervised, truth), (transfer, weak) = seen
    for seed in range(2):
        assert not set(supervised[seed]) & set(transfer[seed])
        assert not set(transfer[seed]) & set(task.test)
        np.testing.assert_array_equal(truth[seed], task.one_hot(supervised[seed]))
        expected = probes.supervisor("bag-of-words")[seed][transfer[seed]]
        np.testing.assert_array_equal(weak[seed], expected)


def test_the_four_claims_of_the_sheet_are_there() -> None:
    statements = " ".join(claim.statement for claim in CLAIMS)
    for part in ("beats that weak model", "leaves part of the gap", "confidence loss", "Bootstrap"):
        assert part in statements


def test_every_scale_has_a_layer_for_every_rung() -> None:
    for config in STUDY.scales.values():
        assert isinstance(config, Config)
        assert len(config.layers) == len(config.ladder)


def test_unknown_methods_and_ladders_without_layers_are_refused() -> None:
    with pytest.raises(UserError, match="Did you mean 'hard'"):
        configure(STUDY, "small", ["probe_methods=naive,herd"])
    with pytest.raises(UserError, match="hidden state for each"):
        configure(STUDY, "small", ["ladder=bag-of-words,minilm-l6"])
    with pytest.raises(UserError, match="for tuned students"):
        configure(STUDY, "small", ["probe_methods=generative-first"])
    for setting in ("supervised=0", "probe_epochs=2,0", "tasks=", "test=0"):
        with pytest.raises(UserError, match="must not be 0 or empty"):
            configure(STUDY, "small", [setting])
    assert configure(STUDY, "small", ["seeds=1"]).tuned_seeds == 3  # more than there are


def test_a_chain_teaches_each_rung_from_the_one_below(monkeypatch: pytest.MonkeyPatch) -> None:
    task = load_transfer_task("movie", supervised=64, transfer=96, test=128)
    monkeypatch.setattr(
        Lab, "embed", lambda self, model, texts, **_: np.eye(len(texts), dtype="f4")
    )
    ladder = {"bag-of-words": 0, "minilm-l6": 0, "smollm2-135m": 0}
    probes = ProbeLadder(task, Lab(device="cpu", progress=False), ladder, seeds=1)
    taught = []
    student = probes.student

    def spy(model, labels, *arguments):  # type: ignore[no-untyped-def]
        taught.append((model, labels))
        return student(model, labels, *arguments)

    monkeypatch.setattr(probes, "student", spy)
    probes.bootstrapped("bag-of-words", "smollm2-135m", epochs=1)
    assert [model for model, _ in taught] == ["minilm-l6", "smollm2-135m"]
    np.testing.assert_array_equal(taught[0][1], probes.labels("bag-of-words"))
    middle = student("minilm-l6", taught[0][1], 1)[:, probes.transfer[0]]
    np.testing.assert_array_equal(taught[1][1], middle)
