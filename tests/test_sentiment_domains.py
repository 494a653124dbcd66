from pathlib import Path

import numpy as np
import pytest

from generality.benchmarks import load_benchmark, sentiment_domains
from generality.benchmarks.sentiment import DOMAINS
from generality.errors import UserError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The released files, with 60 texts each."""
    for domain, file in DOMAINS.items():
        lines = [f"{i}_0\t{2.5 if i % 3 else -2.5}\t{domain} says {i}" for i in range(60)]
        (tmp_path / file).write_text("\n".join(lines))
    return tmp_path


def test_the_domains_hold_the_benchmarks_rows(folder: Path) -> None:
    data = sentiment_domains(split="train", path=folder)
    bench = load_benchmark("sentiment", domain="nyt", path=folder).splits["train"]
    rows = data.rows("nyt")
    assert [data.inputs[i] for i in rows] == list(bench["text"])
    assert data.labels[rows].tolist() == list(bench["label"])
    assert data.domain_names == ("movie", "amazon", "nyt", "tweets")
    both = sentiment_domains(path=folder)
    assert len(both) == 240 == len(data) + len(sentiment_domains(split="test", path=folder))


def test_so_many_rows_of_each_domain(folder: Path) -> None:
    data = sentiment_domains(per_domain=12, seed=1, path=folder)
    counts = np.zeros((4, 2), int)
    np.add.at(counts, (data.domains, data.labels), 1)
    assert counts.tolist() == [[4, 8]] * 4
    with pytest.raises(UserError, match="60 rows, fewer than the 61"):
        sentiment_domains(per_domain=61, path=folder)
    with pytest.raises(UserError, match="Did you mean 'train'"):
        sentiment_domains(split="trian", path=folder)
