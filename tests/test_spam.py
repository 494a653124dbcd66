from pathlib import Path

import pytest

from generality.benchmarks import load_benchmark, load_transfer_task
from generality.benchmarks.spam import read_messages
from generality.errors import UserError

LINES = (
    "ham\tOk lar...  see u\u0085 later\n"
    "spam\tWIN &amp; call 0800\n"
    "ham\tok lar see U later!\n"
    "spam\tcall me\n"
    "ham\tCall me.\n"
    "ham\t \n"
    "ham\tMiles away\tby now\n"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Seven messages as they are published: a copy, a contradiction, an empty one."""
    (tmp_path / "SMSSpamCollection").write_text(LINES, encoding="utf-8", newline="\n")
    return tmp_path


def test_messages_are_read_and_copies_dropped(folder: Path) -> None:
    messages = read_messages(folder)
    assert [(m.id, m.text, m.spam) for m in messages] == [
        ("1", "Ok lar... see u later", False),
        ("2", "WIN & call 0800", True),
        ("7", "Miles away by now", False),
    ]


def test_splits_do_not_depend_on_words(folder: Path) -> None:
    for words, text in ((None, "WIN & call 0800"), (1, "WIN")):
        splits = load_benchmark("spam", path=folder, words=words).splits.values()
        rows = [row for split in splits for row in split]
        assert {row["id"]: row["text"] for row in rows}["2"] == text
        assert sorted(row["label"] for row in rows) == [0, 0, 1]


def test_what_makes_no_sense(folder: Path) -> None:
    with pytest.raises(UserError, match="at least 1"):
        load_benchmark("spam", path=folder, words=0)
    with pytest.raises(UserError, match="no spam_collection.csv or SMSSpamCollection"):
        read_messages(folder / "elsewhere")
    (folder / "SMSSpamCollection").write_text("eggs\tspam and ham\n")
    with pytest.raises(ValueError, match="line 1: 'ham' or 'spam'"):
        read_messages(folder)


def test_the_pinned_messages(artifacts: Path) -> None:
    splits = load_benchmark("spam").splits
    labels = [label for split in splits.values() for label in split["label"]]
    assert (len(splits["train"]), len(splits["test"]), sum(labels)) == (3144, 1364, 550)
    task = load_transfer_task("spam", supervised=30, transfer=40, test=50, words=3)
    assert (len(task.texts), task.classes, len(task.test)) == (120, 2, 50)
    assert max(len(text.split()) for text in task.texts) == 3
