import numpy as np
import pytest

from generality.benchmarks import MultiDomain
from generality.errors import UserError


def texts(**changes: object) -> MultiDomain:
    given: dict[str, object] = {
        "inputs": ["a", "b", "c", "d"],
        "labels": np.array([0, 1, 1, 0], dtype=np.int32),
        "domains": np.array([1, 0, 1, 0]),
        "label_names": ("no", "yes"),
        "domain_names": ("north", "south"),
    }
    return MultiDomain(**(given | changes))  # type: ignore[arg-type]


def test_rows_and_take_keep_input_label_and_domain_together() -> None:
    data = texts()
    assert (len(data), data.labels.dtype) == (4, np.int64)
    assert data.rows("south").tolist() == [0, 2]
    for rows in ([3, 0], np.array([3, 0])):
        part = data.take(rows)
        assert (part.inputs, part.labels.tolist(), part.domains.tolist()) == (
            ["d", "a"],
            [0, 0],
            [0, 1],
        )
        assert part.domain_names == data.domain_names
    assert data.take(data.labels == 1).inputs == ["b", "c"]
    assert data.take([]).inputs == []
    assert texts(inputs=np.arange(8).reshape(4, 2)).take([2]).inputs.tolist() == [[4, 5]]
    assert data != texts()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": np.array([0, 1])}, "labels has the shape"),
        ({"labels": np.array([0, 1, 2, 0])}, "2 are named"),
        ({"domains": np.array([0, 1, -1, 0])}, "domains lie in -1…1"),
        ({"labels": np.array([0.0, 1.0, 1.0, 0.0])}, "integers"),
        ({"domain_names": ("north", "north")}, "share a name"),
    ],
)
def test_what_does_not_fit_together_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        texts(**changes)


def test_an_unknown_domain_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match="Did you mean 'south'"):
        texts().rows("soth")
