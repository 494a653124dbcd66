import numpy as np
import pytest

from generality.benchmarks.sequence_tasks import (
    _OPERATORS,
    _SYMBOLS,
    list_ops,
    lookup,
    pixel_digits,
)


def worked_out(tokens: list[int]) -> int:
    """The value of a list, by a stack: written apart from the generator."""
    names = {number: symbol for symbol, number in _SYMBOLS.items()}
    stack: list = []
    for token in tokens:
        symbol = names[token]
        if symbol == "]":
            values: list[int] = []
            while isinstance(stack[-1], int):
                values.append(stack.pop())
            stack.append(_OPERATORS[stack.pop()](values))
        else:
            stack.append(int(symbol) if symbol.isdigit() else symbol)
    [value] = stack
    return value


def test_lists_come_to_their_labels():
    task = list_ops(200, 20, seed=1)
    for tokens, label in zip(task.tokens, task.labels, strict=True):
        assert worked_out([token for token in tokens[1:] if token]) == label
    assert set(task.test_labels) <= set(range(10))
    assert (task.tokens == 0).any()


def test_the_median_of_an_even_list_is_rounded_down():
    assert _OPERATORS["[MED"]([1, 4, 9, 2]) == 3
    assert _OPERATORS["[MED"]([1, 2]) == 1


def test_every_key_is_there_once_and_the_label_is_its_value():
    task = lookup(50, 7, keys=8, values=3, seed=2)
    pairs = task.tokens[:, 1:] - 9
    assert (np.sort(pairs // 3, axis=1) == np.arange(8)).all()
    asked = task.tokens[:, 0] - 1
    found = [row[row // 3 == key][0] % 3 for row, key in zip(pairs, asked, strict=True)]
    assert (np.array(found) == task.labels).all()
    assert len(task.test_labels) == 7


def test_digits_are_those_of_scikit_learn():
    task = pixel_digits(1500, 297, seed=0)
    assert task.tokens[:, 1:].min() == 2
    assert task.tokens[:, 1:].max() == 18
    assert (np.bincount(task.labels) > 100).all()
    with pytest.raises(ValueError, match="1797"):
        pixel_digits(1500, 298)
