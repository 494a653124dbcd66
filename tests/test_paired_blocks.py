import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from generality.benchmarks import paired_blocks


def labelled(n: int, classes: int, height: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Images that are their row number everywhere; the class is that modulo `classes`."""
    rows = np.arange(n)
    return np.broadcast_to(rows[:, None, None], (n, height, 4)).astype(float), rows % classes


@settings(max_examples=30, deadline=None)
@given(
    agreement=st.sampled_from([0.0, 0.25, 0.5, 1.0]),
    classes=st.integers(2, 4),
    count=st.integers(0, 60),
    seed=st.integers(0, 5),
)
def test_blocks_show_what_is_said_and_agree_as_often(
    agreement: float, classes: int, count: int, seed: int
) -> None:
    pairs = paired_blocks(
        labelled(24, classes),
        labelled(31, classes, height=2),
        agreement=agreement,
        count=count * classes,
        seed=seed,
    )
    above, below = (pairs.inputs[(slice(None), *pairs.blocks[b])] for b in ("first", "second"))
    assert (above.shape[1:], below.shape[1:]) == ((3, 4), (2, 4))
    assert np.array_equal(above[:, 0, 0] % classes, pairs.first)
    assert np.array_equal(below[:, 0, 0] % classes, pairs.second)
    agrees = pairs.first == pairs.second
    for c in range(classes):
        assert (pairs.first == c).sum() == count
        assert agrees[pairs.first == c].sum() == round(agreement * count)


def test_no_example_is_used_twice_while_there_are_enough() -> None:
    pairs = paired_blocks(labelled(20, 2), labelled(20, 2))
    for block in pairs.blocks.values():
        assert len(set(pairs.inputs[(slice(None), *block)][:, 0, 0])) == 20
    side_by_side = paired_blocks(labelled(4, 2), labelled(4, 2), axis=-1, count=10)
    assert side_by_side.inputs.shape == (10, 3, 8)


def test_sets_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"no examples of the classes \[2\]"):
        paired_blocks(labelled(9, 3), labelled(9, 2))
    with pytest.raises(ValueError, match="share in"):
        paired_blocks(labelled(9, 3), labelled(9, 3), agreement=2)
    with pytest.raises(ValueError, match="cannot disagree"):
        paired_blocks(labelled(9, 1), labelled(9, 1), agreement=0.5)
