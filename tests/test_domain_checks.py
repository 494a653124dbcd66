from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from generality.benchmarks import check_domains, digit_domains
from generality.benchmarks.domain_checks import DomainReport
from generality.errors import UserError


def kinds(report: DomainReport) -> list[tuple[str, str | None]]:
    return [(finding.kind, finding.domain) for finding in report.findings]


def test_nothing_is_wrong_with_the_digits() -> None:
    data = digit_domains(("uci",), size=8, per_domain=300)
    domains = np.where(np.arange(300) % 2, "even", "odd")
    report = check_domains(data.labels, domains, data.inputs, folds=5)
    assert report.findings == ()
    assert set(report.testable) == {"even", "odd"}
    assert len(report.kept) == 300


def test_small_domains_are_trained_on_but_not_tested_on() -> None:
    domains = list("aaaaabbbbbcccdd")
    labels = [0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 1, 1, 1, 0, 1]
    report = check_domains(labels, domains, folds=3)
    assert kinds(report) == [("one class", "c"), ("few rows", "d")]
    assert report.testable == ("a", "b")
    assert report.findings[0].rows == (10, 11, 12)
    assert "it can be trained on, but not tested on" in report.findings[0].message
    with pytest.raises(UserError, match="'c' has one class only.*choose another target"):
        check_domains(labels, domains, folds=3, target="c")
    with pytest.raises(UserError, match="'d' has 2 rows to split in 3"):
        check_domains(labels, domains, folds=3, target="d")
    assert check_domains(labels, domains, folds=3, target="d", refuse=False).findings[0].fatal


def test_classes_that_training_never_sees() -> None:
    domains, labels = list("aaabbb"), ["ill", "well", "odd", "ill", "well", "well"]
    report = check_domains(labels, domains, target="a")
    assert [(f.kind, f.domain, f.rows) for f in report.findings] == [("unseen classes", "a", (2,))]
    assert "1 row of classes that no other domain has (odd)" in report.findings[0].message
    assert kinds(check_domains(labels, domains, target="b")) == []
    with pytest.raises(UserError, match="Without the domain 'a' one class is left"):
        check_domains([0, 1, 0, 0], list("aabb"), target="a")
    with pytest.raises(UserError, match="Without the domain 'a' no labelled rows are left"):
        check_domains([0, 1], list("aa"))


def test_a_domain_without_labels_can_only_be_the_target() -> None:
    labels = [0, 1, 0, 1, None, float("nan"), -1, ""]
    domains = list("aabbcccc")
    report = check_domains(labels, domains)
    assert kinds(report) == [("no labels", "c")]
    assert "takes no part unless it is the target" in report.findings[0].message
    report = check_domains(labels, domains, target="c")
    assert "it can be predicted, not scored" in report.findings[0].message
    assert report.testable == ("a", "b")


def test_when_no_domain_can_be_left_out_that_is_said() -> None:
    with pytest.raises(UserError, match="No domain can be left out"):
        check_domains([0, 0, 1, 1], list("aabb"))


def test_duplicates_across_domains_are_counted_dropped_or_refused() -> None:
    texts = ["A film.", "Bad", "a FILM", "A film.", "bad!", "Bad", "new", "old"]
    domains = list("aaabbbcc")
    labels = [0, 1, 0, 0, 1, 1, 0, 1]
    report = check_domains(labels, domains, texts)
    (finding,) = report.findings
    assert finding.rows == (3, 4, 5), "copies inside a domain are none"
    assert finding.message.startswith("3 rows are also in another domain (2 to the letter)")
    assert len(report.kept) == 8
    assert check_domains(labels, domains, texts, target="b").findings[0].rows == (0, 1, 2)
    with pytest.raises(UserError, match="3 rows are also"):
        check_domains(labels, domains, texts, on_duplicates="refuse")
    dropped = check_domains(labels, domains, texts, on_duplicates="drop")
    assert dropped.kept.tolist() == [0, 1, 2, 6, 7]
    assert kinds(dropped) == [("duplicates", None), ("no labels", "b")]


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from("abc")), min_size=1))
def test_after_dropping_no_content_is_in_two_domains(rows: list[tuple[int, str]]) -> None:
    content = np.array([[value] for value, _ in rows])
    domains = [domain for _, domain in rows]
    report = check_domains(
        [0] * len(rows), domains, content, on_duplicates="drop", target=domains[-1], refuse=False
    )
    homes: dict[int, set[str]] = {}
    for row in report.kept:
        homes.setdefault(rows[row][0], set()).add(domains[row])
    assert all(len(home) == 1 for home in homes.values())
    assert set(homes) == {value for value, _ in rows}, "nothing is lost"
    assert set(np.flatnonzero(np.array(domains) == domains[-1])) <= set(report.kept)


def test_images_are_compared_by_their_files_content(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("1.png", "2.png", "3.png", "4.png")]
    for file, pixels in zip(files, (b"one", b"two", b"one", b"four"), strict=True):
        file.write_bytes(pixels)
    report = check_domains([0, 1, 0, 1], list("aabb"), files)
    assert [finding.rows for finding in report.findings] == [(2,)]


def test_columns_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="as long"):
        check_domains([0, 1], ["a"])
    with pytest.raises(ValueError, match="as long"):
        check_domains([0, 1], ["a", "b"], ["x"])
    with pytest.raises(ValueError, match="as long"):
        check_domains([], [])
    with pytest.raises(UserError, match="Did you mean 'north'"):
        check_domains([0, 1], ["north", "south"], target="nort")
