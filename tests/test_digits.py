import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.svm import SVC

from generality.benchmarks import digit_domains, digits, load_benchmark
from generality.benchmarks.digits import STYLES, TYPEFACES
from generality.errors import UserError

pytestmark = pytest.mark.usefixtures("artifacts")


@pytest.mark.parametrize("style", STYLES)
def test_a_style_has_its_shape_range_and_equal_shares_and_repeats(style: str) -> None:
    images, labels = digits(style, size=20, count=200, seed=1)
    assert (images.shape, images.dtype, labels.dtype) == ((200, 3, 20, 20), np.float32, np.int64)
    assert images.min() >= 0
    assert 0.9 < images.max() <= 1
    assert np.ptp(np.bincount(labels, minlength=10)) <= (2 if style == "uci" else 0)
    assert (np.diff(labels) < 0).any(), "not sorted by digit"
    again, same = digits(style, size=20, count=200, seed=1)
    assert np.array_equal(images, again)
    assert np.array_equal(labels, same)
    assert not np.array_equal(images, digits(style, size=20, count=200, seed=2)[0])


def test_all_of_mnist_and_uci_come_with_the_counts_of_their_publishers() -> None:
    assert np.bincount(digits("mnist")[1]).tolist() == [500] * 10
    counts = [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert np.bincount(digits("uci", size=8)[1]).tolist() == counts
    assert digits("mnist")[0].mean() == pytest.approx(0.1313, abs=2e-4)


def test_a_photographs_digit_is_the_difference_of_both() -> None:
    images, _ = digits("mnist_over_photos", count=300)
    handwritten, _ = digits("mnist", count=300)
    channels = np.abs(images[:, 0] - images[:, 1]).max(axis=(1, 2))
    assert 0.2 < (channels > 0.1).mean() < 0.8, "four photographs of eight are in colour"
    assert images.mean() > 2 * handwritten.mean()


def test_printed_digits_can_be_read_and_every_typeface_can_be_drawn() -> None:
    images, labels = digits("fonts", count=1000)
    assert images.max(axis=(1, 2, 3)).min() > 0.3, "no stroke vanishes"
    border = images[:, 0, [0, -1]].max(axis=(1, 2))
    assert (border > 0.5).mean() < 0.01, "digits lie inside the image"
    pooled = images[:, 0].reshape(1000, 14, 2, 14, 2).mean(axis=(2, 4)).reshape(1000, -1)
    probe = SVC(C=10).fit(pooled[:750], labels[:750])
    assert probe.score(pooled[750:], labels[750:]) > 0.7


def test_no_handwriting_is_in_two_domains() -> None:
    data = digit_domains(("mnist", "mnist_over_photos"), size=28)
    assert [len(data.rows(name)) for name in data.domain_names] == [2500, 2500]
    for name in data.domain_names:
        assert np.bincount(data.labels[data.rows(name)]).tolist() == [250] * 10
    with pytest.raises(UserError, match="2,500 digits of the style mnist beside"):
        digit_domains(("mnist", "mnist_over_photos"), per_domain=2501)


def test_the_benchmark_holds_out_typefaces_and_originals() -> None:
    bench = load_benchmark(
        "digits", source=("fonts", "mnist"), target="mnist_over_photos", per_domain=400
    )
    assert bench.shift.trained_on == ("fonts", "mnist")
    assert set(bench.splits) == {"train", "test", "source_test", "target_train"}
    seen, unseen = (set(bench.splits[s]["source_id"]) for s in ("train", "source_test"))
    assert not seen & unseen
    assert {name for name in seen | unseen if not name.startswith("mnist")} == set(TYPEFACES)
    row = bench.splits["test"][0]
    assert (row["image"].size, row["image"].mode) == ((28, 28), "RGB")
    assert row["domain"] == "mnist_over_photos"
    ids = [i for split in bench.splits.values() for i in split["id"]]
    assert len(ids) == len(set(ids)) == 1200


def test_requests_that_make_no_sense_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="Did you mean 'fonts'"):
        digits("font")
    with pytest.raises(UserError, match="1,797 digits of the style uci, not 2,000"):
        digits("uci", count=2000)
    with pytest.raises(ValueError, match="at least 1"):
        digits("uci", size=0)
    with pytest.raises(UserError, match="named twice"):
        digit_domains(("uci", "uci"))
    with pytest.raises(UserError, match="both trained on and the target"):
        load_benchmark("digits", source="uci", target="uci")
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(UserError, match="generality\\[vision\\]"):
        digits("fonts", count=10)


def test_the_uci_digits_need_neither_pillow_nor_a_download(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    assert len(digits("uci")[1]) == 1797
    assert not home.exists()
