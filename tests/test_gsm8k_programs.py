import json
from pathlib import Path

import pytest

from generality.benchmarks.gsm8k_programs import gsm8k_program, gsm8k_programs

CLIPS = (
    "Natalia sold 48/2 = <<48/2=24>>24 clips in May.\n"
    "Natalia sold 48+24 = <<48+24=72>>72 clips altogether in April and May.\n#### 72"
)


def test_annotations_become_statements() -> None:
    assert gsm8k_program(CLIPS) == "n0 = 48/2\nanswer = 48+n0"
    money = "He pays <<2*3.5=7>>7, of 1,007 <<1007-7=1000>>1000.\n#### 1,000"
    assert gsm8k_program(money) == "n0 = 2*3.5\nanswer = 1007-n0"


@pytest.mark.parametrize(
    "solution",
    ["No sums.\n#### 3", "It is <<1+1=2>>2.\n#### 3", "<<1+=2>>\n#### 2", "<<1+1=two>>\n#### 2",
     "<<1+1=2>>\n#### two"],
)  # fmt: skip
def test_what_does_not_lead_to_the_answer_is_left_out(solution: str) -> None:
    assert gsm8k_program(solution) is None


def test_problems_are_read_from_a_folder(tmp_path: Path) -> None:
    rows = [{"question": "How many?", "answer": CLIPS}, {"question": "?", "answer": "#### 1"}]
    (tmp_path / "test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    [problem] = gsm8k_programs("test", folder=tmp_path)
    assert (problem.prompt, problem.answer) == ("How many?", 72.0)
