from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from generality.benchmarks import hospital_notes, load_benchmark
from generality.benchmarks.drug_reviews import read_reviews
from generality.benchmarks.hospital_notes import HOSPITALS
from generality.errors import UserError
from generality.measures import delong

HEADER = "\tdrugName\tcondition\treview\trating\tdate\tusefulCount\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six reviews as the package writes them, one of them twice."""
    rows = [
        '1\tA\tBirth Control\t"""It&#039;s great."""\tpositive\tMay 30, 2011\t12',
        '2\tB\tDepression\t"""No help."""\tnegative\tApril 2, 2017\t0',
        '3\tC\tPeriod Pain\t"""Line one.\r\nLine two."""\tneutral\tJanuary 1, 2016\t3',
        '4\tD\t3</span> users found this comment helpful.\t"""Fine."""\tpositive\tMay 1, 2012\t1',
        '5\tE\t\t"""Odd."""\tpositive\tMay 2, 2012\t1',
    ]
    (tmp_path / "drugsComTrain.tsv").write_text(HEADER + "\n".join(rows) + "\n", newline="")
    more = (
        '9\tA\tAcne\t"""it\'s GREAT"""\tnegative\tMay 1, 2017\t1\n7\tF\tAcne\t"""Red."""\tpositive'
    )
    (tmp_path / "drugsComTest.tsv").write_text(HEADER + more + "\tMay 1, 2017\t1\n", newline="")
    return tmp_path


def test_reviews_are_read_and_cleaned(folder: Path) -> None:
    reviews = read_reviews(folder)
    assert [r.id for r in reviews] == ["1", "2", "3", "4", "5", "7"], "a copy is dropped"
    assert [r.text for r in reviews[:3]] == ["It's great.", "No help.", "Line one. Line two."]
    assert [r.site for r in reviews] == [
        "contraception", "mind", "contraception", "other", "other", "skin",
    ]  # fmt: skip
    assert [r.condition for r in reviews[3:5]] == ["", ""]
    assert reviews[0].date == "2011-05-30"


def test_sites_and_dates_can_be_held_out(folder: Path) -> None:
    split = load_benchmark("drug_reviews", path=folder, target="skin")
    assert split.splits["test"]["id"][:] == ["7"]
    assert split.shift.tested_on == ("skin",)
    later = load_benchmark("drug_reviews", path=folder, since="2016-01-01", words=1).splits
    assert later["test"]["id"][:] == ["2", "3", "7"]
    assert later["test"]["label"][:] == [0, 0, 1]
    assert later["test"]["text"][:] == ["No", "Line", "Red."]
    assert later["test"]["words"][:] == [2, 4, 1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "skn"}, "Did you mean 'skin'"),
        ({"target": "skin", "since": "2016-01-01"}, "not both"),
        ({"since": "2030-01-01"}, "nothing to test"),
        ({"words": 0}, "at least 1"),
    ],
)
def test_what_makes_no_sense(folder: Path, options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_benchmark("drug_reviews", path=folder, **options)


def test_missing_and_broken_files(folder: Path) -> None:
    (folder / "drugsComTest.tsv").write_text(HEADER + "1\tA\tB\tC\tgood\tMay 1, 2017\t1\n")
    with pytest.raises(ValueError, match="no rating"):
        read_reviews(folder)
    (folder / "drugsComTest.tsv").unlink()
    with pytest.raises(UserError, match=r"no drugsComTest\.tsv"):
        read_reviews(folder)


def test_the_pinned_sample(artifacts: Path) -> None:
    splits = load_benchmark("drug_reviews").splits
    rows = pd.concat([split.to_pandas() for split in splits.values()])
    assert (len(splits["train"]), len(splits["test"])) == (688, 290)
    assert rows["rating"].value_counts().to_dict() == {
        "positive": 632, "negative": 256, "neutral": 90,
    }  # fmt: skip
    assert rows["site"].value_counts().to_dict() == {
        "other": 285, "contraception": 251, "mind": 242, "pain": 128, "skin": 72,
    }  # fmt: skip


# ------------------------------------------------------------------------- generated notes


def test_notes_are_what_their_description_says() -> None:
    notes = hospital_notes(4000, seed=0)
    shares = notes["hospital"].value_counts(normalize=True)
    for name, share in HOSPITALS.items():
        assert shares[name] == pytest.approx(share, abs=0.025)

    def readable(rows: pd.DataFrame) -> float:
        return delong(rows["label"].to_numpy(), rows["severity"].to_numpy())[0]

    ill = notes["comorbidities"]
    assert readable(notes[ill <= 1]) > readable(notes[ill >= 5]) + 0.1
    for column in ("insurance", "borough", "hospital"):
        strata = notes[notes["hospital"] != "west"].groupby(column)
        found = [readable(rows) for _, rows in strata]
        assert np.ptp(found) < 0.06, column
    west = notes["hospital"] == "west"
    assert not notes[west]["text"].str.contains("good adherence|clear lungs").any()
    codes = notes["text"].str.contains(r"\bcode ")
    assert not codes[notes["day"] < 547].any()
    assert codes[notes["day"] >= 548].mean() > 0.9
    assert not hospital_notes(300, drift=0.0)["text"].str.contains(r"\bcode ").any()


def test_notes_follow_the_seed_and_can_be_of_one_hospital() -> None:
    pd.testing.assert_frame_equal(hospital_notes(50), hospital_notes(50))
    assert (hospital_notes(50, seed=1)["text"] != hospital_notes(50)["text"]).any()
    assert set(hospital_notes(50, hospital="west")["hospital"]) == {"west"}
    with pytest.raises(ValueError, match="north, east, south, west"):
        hospital_notes(5, hospital="nord")
