import functools
import inspect
import math
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from generality.lab.fingerprint import code_fingerprint, fingerprint
from generality.objectives import ConfidenceLoss

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(plain, plain)
def test_different_plain_values_have_different_names(a: object, b: object) -> None:
    same = repr(a) == repr(b) or (a == b and isinstance(a, dict))
    assert (fingerprint(a) == fingerprint(b)) == same


@given(st.dictionaries(st.text(), st.integers()))
def test_the_order_of_a_mapping_does_not_count(mapping: dict[str, int]) -> None:
    assert fingerprint(dict(reversed(mapping.items()))) == fingerprint(mapping)


def test_neighbours_in_a_sequence_cannot_trade_content() -> None:
    assert fingerprint(["ab", "c"]) != fingerprint(["a", "bc"])
    assert fingerprint([[1], [2]]) != fingerprint([[1, 2], []])


def test_arrays_and_tensors_are_named_by_content_shape_and_type() -> None:
    array = np.arange(6, dtype=np.float32)
    assert fingerprint(array) == fingerprint(array.copy())
    assert fingerprint(array[::2]) == fingerprint(array[::2].copy())
    assert len({fingerprint(x) for x in (array, array.reshape(2, 3), array.astype("f8"))}) == 3
    tensor = torch.arange(6.0)
    assert fingerprint(tensor) == fingerprint(tensor.clone())
    assert fingerprint(tensor.to(torch.bfloat16)) != fingerprint(tensor)


def test_losses_are_named_by_their_settings() -> None:
    assert fingerprint(ConfidenceLoss(0.5)) == fingerprint(ConfidenceLoss(0.5))
    assert fingerprint(ConfidenceLoss(0.5)) != fingerprint(ConfidenceLoss(0.75))
    assert fingerprint(functools.partial(max, 1)) != fingerprint(functools.partial(max, 2))


def test_modules_are_named_by_their_weights() -> None:
    first, second = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    assert fingerprint(first) != fingerprint(second)
    second.load_state_dict(first.state_dict())
    assert fingerprint(first) == fingerprint(second)


def test_datasets_are_named_by_content_not_by_history() -> None:
    dataset = Dataset.from_dict({"text": ["a", "b", "c"], "label": [0, 1, 0]})
    reordered = dataset.select([2, 0, 1])
    assert fingerprint(reordered) == fingerprint(
        Dataset.from_dict({"text": ["c", "a", "b"], "label": [0, 0, 1]})
    )
    assert fingerprint(reordered) != fingerprint(dataset)


def test_frames_are_named_by_content() -> None:
    frame = pd.DataFrame({"a": [1, 2], "b": ["x", "y"]})
    assert fingerprint(frame) == fingerprint(frame.copy())
    assert fingerprint(frame) != fingerprint(frame.rename(columns={"a": "c"}))


@dataclass(frozen=True)
class Setting:
    rate: float


def test_dataclasses_are_named_by_fields() -> None:
    assert fingerprint(Setting(0.1)) == fingerprint(Setting(0.1))
    assert fingerprint(Setting(0.1)) != fingerprint(Setting(0.2))


def test_what_has_no_content_is_refused() -> None:
    with pytest.raises(TypeError, match="cannot tell the content"):
        fingerprint(object())


SOURCE = '''
from dataclasses import dataclass
from pathlib import Path

FACTOR = 2
TABLE = {{"offset": [{offset}]}}

def inner(x):
    {comment}
    return x {operator} FACTOR + TABLE["offset"][0]

@dataclass
class Loss:
    scale: float = 1.0

    def value(self, x):
        return inner(x)

def outer(x):
    """{doc}"""
    return Loss().value(x)
'''


def names_of(tmp_path, **parts: str) -> list[str]:
    """Names of `outer` and of a `Loss` in a module written with these parts, by a new process."""
    filled = {"comment": "# a", "operator": "*", "doc": "a", "offset": "0"} | parts
    (tmp_path / "written_module.py").write_text(SOURCE.format(**filled))
    script = (
        "import written_module as m; from generality.lab.fingerprint import fingerprint;"
        "print(fingerprint(m.outer), fingerprint(m.Loss()))"
    )
    return subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, text=True, capture_output=True, check=True
    ).stdout.split()


def test_code_is_named_by_what_it_does_and_what_it_calls(tmp_path) -> None:
    before = names_of(tmp_path)
    assert before == names_of(tmp_path, comment="# b", doc="b")
    for change in ({"operator": "+"}, {"offset": "1"}):
        changed = names_of(tmp_path, **change)
        assert before[0] != changed[0]
        assert before[1] != changed[1]


def test_constants_of_the_module_count(monkeypatch) -> None:
    from generality.objectives import confidence

    before = code_fingerprint(confidence._balance)
    monkeypatch.setattr(confidence, "_ROUNDS", 7)
    code_fingerprint.cache_clear()
    assert code_fingerprint(confidence._balance) != before
    code_fingerprint.cache_clear()


LOSSES = (lambda x: x + 1, lambda x: x + 2)
KINDS = frozenset({"alpha", "beta", "gamma", "delta"})
STEPS = (code_fingerprint, fingerprint)


def uses_constants(x):
    return [
        x in KINDS,
        STEPS,
        x in {"one", "two", "three"},
        math.pi,
        inspect.__name__,
        type(x).__name__,
    ]


def test_code_has_the_same_name_in_every_process() -> None:
    script = (
        "import test_fingerprint as t; from generality.lab.finetune import finetune as f; "
        "print(t.code_fingerprint(t.uses_constants), t.code_fingerprint(f), "
        "t.code_fingerprint(t.LOSSES[0]))"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=Path(__file__).parent, capture_output=True, text=True, check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }  # fmt: skip
    assert len(said) == 1


def test_lambdas_of_one_line_differ() -> None:
    assert code_fingerprint(LOSSES[0]) != code_fingerprint(LOSSES[1])


def test_what_a_nested_function_captured_counts() -> None:
    def scaled(weights):
        return lambda x: x * weights

    same = [code_fingerprint(scaled(np.arange(3.0))) for _ in range(2)]
    assert same[0] == same[1]
    assert same[0] != code_fingerprint(scaled(np.arange(4.0)))
    assert code_fingerprint(scaled([1])) != code_fingerprint(scaled([2]))


def test_code_is_named_alike_whatever_was_imported_before() -> None:
    script = (
        "import sys, importlib\n"
        "for name in sys.argv[1:]: importlib.import_module(name)\n"
        "from generality.lab.finetune import finetune\n"
        "from generality.lab.fingerprint import code_fingerprint\n"
        "print(code_fingerprint(finetune))"
    )
    early = ["generality.models.efficientnet_lite", "generality.models.bag_of_words"]
    names = [
        subprocess.run(
            [sys.executable, "-c", script, *first], text=True, capture_output=True, check=True
        ).stdout
        for first in ([], early)
    ]
    assert names[0] == names[1]


def test_a_list_is_not_a_tuple() -> None:
    assert fingerprint([None]) != fingerprint((None,))
