"""The report: what it says about a run, that it escapes what it shows, that a browser draws it."""

from __future__ import annotations

import html
import io
import json
import re
import shutil
import subprocess
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from generality.errors import UserError
from generality.lab.runs import read_run
from generality.report import (
    show_claims,
    show_summary,
    summarise,
    summarise_run,
    to_json,
    write_picture,
    write_report,
)

# What each method recovers of the gap, by pair of models.
METHODS = {
    "naive": 0.35,
    "hard labels": 0.22,
    "confidence (alpha=0.5)": 0.48,
    "confidence (alpha=0.75)": 0.59,
    "product": 0.30,
    "bootstrapping": 0.38,
}
PAIRS = {
    ("bag-of-words", "minilm-l6"): (0.717, 0.810),
    ("bag-of-words", "smollm2-135m"): (0.717, 0.838),
    ("minilm-l6", "smollm2-135m"): (0.801, 0.842),
}
CLAIMS = [
    {
        "statement": "Students outperform the supervisors whose labels they learn from",
        "verdict": "holds",
        "effect": 0.0412,
        "low": 0.0301,
        "high": 0.0523,
        "p": 0.00011,
        "p_holm": 0.00044,
        "seeds": 5,
        "expected_at": "small",
        "test": "paired: naive > floor",
        "note": "",
    },
    {
        "statement": "The confidence loss recovers more the wider the gap",
        "verdict": "inconclusive",
        "effect": 0.031,
        "low": -0.022,
        "high": 0.084,
        "p": 0.21,
        "p_holm": 0.42,
        "seeds": 5,
        "expected_at": "full",
        "test": "interacts",
        "note": "Two of the three gaps are nearly as wide as each other at this scale.",
    },
    {
        "statement": "Bootstrapping through intermediate sizes raises the share recovered",
        "verdict": "fails",
        "effect": -0.012,
        "low": -0.018,
        "high": -0.006,
        "p": 0.004,
        "p_holm": 0.012,
        "seeds": 5,
        "expected_at": "small",
        "test": "paired: bootstrapping > naive",
        "note": "The paper saw it in chess and hardly elsewhere.",
    },
    {
        "statement": "Never computed",
        "verdict": "inconclusive",
        **dict.fromkeys(("effect", "low", "high", "p", "p_holm", "seeds")),
        "expected_at": "full",
        "test": "",
        "note": "",
    },
]
ENVIRONMENT = {
    "python": "3.11.9",
    "packages": {"torch": "2.13.0", "transformers": "5.23.0"},
    "machine": {"cores": 2, "memory_gib": 7.6},
    "threads": 1,
    "started": "2025-11-21T20:10:04",
    "finished": "2025-11-21T20:13:51",
    "seconds": 227.4,
    "steps": {"computed": 131, "reused": 12},
}


def fake_rows(
    *,
    seeds: int = 5,
    pairs: dict[tuple[str, str], tuple[float, float]] = PAIRS,
    methods: dict[str, float] = METHODS,
    spread: float = 0.006,
) -> pd.DataFrame:
    """Rows as weak-to-strong writes them: pairs × methods × seeds, and how far students agree."""
    random = np.random.default_rng(0)
    rows = []
    for (weak, strong), (low, high) in pairs.items():
        for seed in range(seeds):
            floor, ceiling = low + spread * random.normal(), high + spread * random.normal()
            for method, recovered in methods.items():
                score = floor + recovered * (high - low) + spread * random.normal()
                rows.append(
                    {
                        "method": method,
                        "seed": seed,
                        "score": score,
                        "floor": floor,
                        "ceiling": ceiling,
                        "recovered": (score - floor) / (ceiling - floor),
                        "agreement": 0.85 + 0.02 * random.normal(),
                        "strong": strong,
                        "task": "sentiment",
                        "weak": weak,
                    }
                )
    return pd.DataFrame(rows)


def fake_run(directory: Path, rows: pd.DataFrame | None = None, **config: Any) -> Path:
    """A run on disk, as the lab leaves it."""
    directory.mkdir(parents=True, exist_ok=True)
    whole = {
        "study": "weak-to-strong",
        "title": "Weak-to-strong generalization",
        "scale": "small",
        "seeds": 5,
        "config": {"epochs": 10, "losses": ["naive", "confidence"], "optimiser": {"lr": 2e-3}},
        "paper": "https://arxiv.org/abs/2312.09390",
        **config,
    }
    (directory / "config.json").write_text(json.dumps(whole))
    (fake_rows() if rows is None else rows).to_parquet(directory / "rows.parquet")
    (directory / "claims.json").write_text(json.dumps(CLAIMS))
    (directory / "environment.json").write_text(json.dumps(ENVIRONMENT))
    return directory


def terminal(width: int = 80, **options: Any) -> Console:
    return Console(file=io.StringIO(), width=width, **options)


def text_of(page: str) -> str:
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page)))


# What is said.


def test_the_answer_names_the_best_mean_the_levels_and_the_seeds() -> None:
    rows = pd.DataFrame(
        [
            {"method": method, "seed": seed, "score": score, "floor": 0.7, "ceiling": 0.8}
            for method, scores in {"a": [0.72, 0.74, 0.73], "b": [0.76, 0.74, 0.75]}.items()
            for seed, score in enumerate(scores)
        ]
    )
    summary = summarise(rows)
    assert summary.kind == "recovered"
    assert summary.best is not None
    assert summary.best.method == "b"
    assert summary.best.share is not None
    assert summary.best.share.estimate == pytest.approx(0.5)
    assert re.fullmatch(
        r"The best of 2 methods tried, b, recovered 50 % \[\d+, \d+\] of the gap between "
        r"the floor \(0\.700\) and full supervision \(0\.800\), over 3 seeds\.",
        summary.answer,
    )


def test_one_supervisor_gives_the_floor_its_name_and_several_do_not() -> None:
    one = fake_rows(pairs={("bag-of-words", "minilm-l6"): (0.717, 0.81)})
    assert "between bag-of-words (0.7" in summarise(one).answer
    assert "between the floor (0.7" in summarise(fake_rows()).answer
    assert "over 5 seeds and 3 settings." in summarise(fake_rows()).answer


def test_a_chosen_floor_lends_no_other_method_its_name() -> None:
    """Plain training was chosen: the best of the rest was not, and is not said to have been."""
    frame = pd.DataFrame(
        {"method": name, "seed": seed, "score": 0.7 + gain + seed / 100, "floor": 0.7 + seed / 100,
         "ceiling": 0.9}
        for name, gain in (("erm", 0.0), ("coral", 0.05), ("sd", 0.02))
        for seed in range(3)
    )  # fmt: skip
    found = summarise(frame, chosen="erm")
    assert found.best.method == "coral"
    assert found.answer.startswith("The best of 2 methods tried, coral,")
    assert "chosen on rows kept apart is erm, which is itself a reference" in found.caveats[0]
    assert summarise(frame, chosen="sd").answer.startswith("The method chosen among 2")


def test_a_method_that_happens_to_equal_the_floor_is_no_reference() -> None:
    rows = [
        {"method": name, "seed": seed, "score": 0.7, "floor": 0.7, "ceiling": 0.9}
        for name in ("erm", "coral", "sd")
        for seed in range(3)
    ]
    frame = pd.DataFrame(rows).assign(score=lambda f: f["score"] + 0.1 * (f["method"] == "sd"))
    guessed, told = summarise(frame), summarise(frame, references=["erm"])
    assert [line.method for line in guessed.lines if line.reference] == ["erm", "coral"]
    assert [line.method for line in told.lines if line.reference] == ["erm"]


def test_the_best_is_chosen_by_the_mean_over_all_settings_not_by_one_of_them() -> None:
    rows = fake_rows(methods={"steady": 0.6, "peaky": 0.3}, spread=0.002)
    peak = (rows["method"] == "peaky") & (rows["weak"] == "minilm-l6")
    rows.loc[peak, "score"] = rows.loc[peak, "floor"] + 0.05
    summary = summarise(rows)
    by_setting = {(line.group, line.method): line.score for line in summary.lines}
    setting = "minilm-l6 → smollm2-135m"
    assert by_setting[setting, "peaky"] > by_setting[setting, "steady"]
    assert summary.best is not None
    assert summary.best.method == "steady"


def test_a_method_that_ran_in_one_setting_only_is_not_in_the_running() -> None:
    rows = fake_rows()
    lucky = rows[(rows["method"] == "naive") & (rows["strong"] == "minilm-l6")]
    lucky = lucky.assign(method="lucky", score=lucky["ceiling"] - 0.001)
    summary = summarise(pd.concat([rows, lucky]))
    assert summary.best is not None
    assert summary.best.method == "confidence (alpha=0.75)"
    assert "best of 6 methods" in summary.answer
    assert any("Not in the running" in each and "lucky" in each for each in summary.caveats)
    assert "lucky" in {line.method for line in summary.lines}


def test_settings_without_a_gap_are_left_out_of_the_mean_and_named() -> None:
    rows = fake_rows(pairs={("w", "s"): (0.7, 0.8), ("w", "t"): (0.8, 0.7)})
    summary = summarise(rows)
    assert summary.compared == ("w → s",)
    assert any("No gap to recover in 1 of 2 settings" in each for each in summary.caveats)
    flat = [line for line in summary.lines if line.group == "w → t"]
    assert {line.recovered for line in flat} == {"no gap"}


def test_no_gap_anywhere_is_an_answer() -> None:
    summary = summarise(fake_rows(pairs={("w", "s"): (0.75, 0.75)}))
    assert summary.kind == "no gap"
    assert summary.answer.startswith("There is no gap to recover: full supervision (0.7")


def test_without_a_ceiling_the_share_is_unknown_but_the_gain_is_told() -> None:
    summary = summarise(fake_rows().assign(ceiling=None, recovered=None))
    assert summary.kind == "no ceiling"
    assert "better than the floor" in summary.answer
    assert "Without a ceiling the share recovered is unknown." in summary.answer
    assert all(line.share is None for line in summary.lines)


def test_without_any_truth_nothing_is_claimed() -> None:
    empty = dict.fromkeys(("score", "floor", "ceiling", "recovered"))
    summary = summarise(fake_rows().assign(**empty))
    assert summary.kind == "no truth"
    assert "cannot be said" in summary.answer
    assert summary.best is None


def test_scores_alone_have_no_gap_to_speak_of() -> None:
    summary = summarise(fake_rows().assign(floor=None, ceiling=None))
    assert summary.kind == "no floor"
    assert "scored 0." in summary.answer


@pytest.mark.parametrize(("seeds", "word"), [(1, "One seed"), (2, "Two seeds")])
def test_too_few_seeds_give_no_interval_and_say_so(seeds: int, word: str) -> None:
    summary = summarise(fake_rows(seeds=seeds))
    assert "[" not in summary.answer
    assert any(each.startswith(f"{word} cannot say") for each in summary.caveats)


def test_when_nothing_beats_the_floor_the_nearest_is_named() -> None:
    summary = summarise(fake_rows(methods={"worse": -0.6, "bad": -0.4}))
    assert summary.kind == "not recovered"
    assert summary.answer.startswith("None of 2 methods tried beat the floor")
    assert "the nearest, bad, scored" in summary.answer
    assert "−" in summary.answer


def test_a_wide_interval_that_includes_zero_is_called_both() -> None:
    summary = summarise(
        fake_rows(methods={"naive": 0.2}, pairs={("w", "s"): (0.7, 0.8)}, spread=0.03)
    )
    assert summary.best is not None
    assert summary.best.share is not None
    assert summary.best.share.low < 0 < summary.best.share.estimate
    assert any("includes zero" in each for each in summary.caveats)
    assert any("wide" in each for each in summary.caveats)


def test_empty_rows_are_no_result_yet() -> None:
    columns = ["method", "seed", "score", "floor", "ceiling", "recovered"]
    for rows in (pd.DataFrame(), pd.DataFrame(columns=columns)):
        assert summarise(rows).kind == "empty"


def test_rows_that_are_the_floor_or_the_ceiling_are_references_and_cannot_win() -> None:
    rows = fake_rows()
    naive = rows[rows["method"] == "naive"]
    both = [naive.assign(method=name, score=naive[name]) for name in ("floor", "ceiling")]
    summary = summarise(pd.concat([rows, *both]))
    assert {line.method for line in summary.lines if line.reference} == {"floor", "ceiling"}
    assert summary.best is not None
    assert summary.best.method == "confidence (alpha=0.75)"
    assert "best of 6 methods" in summary.answer


def test_settings_are_told_from_measurements_and_from_a_methods_own_knobs() -> None:
    rows = fake_rows(methods={"naive": 0.3, "product": 0.3, "confidence": 0.5, "other": 0.1})
    confident = rows["method"] == "confidence"
    rows = pd.concat(
        [
            rows.assign(alpha=np.where(confident, 0.5, np.nan), epochs=2),
            rows[confident].assign(alpha=0.75, epochs=2),
        ]
    )
    rows = pd.concat([rows, rows.assign(epochs=10)])
    summary = summarise(rows)
    assert "confidence (alpha=0.75)" in {line.method for line in summary.overall}
    assert "bag-of-words → minilm-l6 · epochs 10" in summary.groups
    assert len(summary.groups) == 6
    assert set(summary.lines[0].measures) == {"agreement"}
    assert all(len(line.seeds) == 5 for line in summary.lines)


def test_lower_is_better_turns_best_and_gap_around() -> None:
    rows = fake_rows(pairs={("w", "s"): (0.9, 0.5)}, methods={"little": 0.2, "much": 0.7})
    summary = summarise(rows, lower_is_better=True)
    assert summary.best is not None
    assert summary.best.method == "much"
    assert summary.kind == "recovered"
    assert summarise(rows.assign(lower_is_better=True)).answer == summary.answer


def test_a_setting_that_few_seeds_reached_is_still_a_setting() -> None:
    rows = fake_rows(methods={"naive": 0.4}, pairs={("w", "s"): (0.7, 0.8)})
    tuned = rows[rows["seed"] == 0].assign(tuning="full", epochs=3)
    summary = summarise(pd.concat([rows.assign(tuning="probe", epochs=10), tuned]))
    assert summary.groups == ("w → s · probe · epochs 10", "w → s · full · epochs 3")
    assert [len(line.seeds) for line in summary.lines] == [5, 1]


def test_a_run_killed_half_way_compares_what_is_complete() -> None:
    rows = fake_rows()
    summary = summarise(rows.iloc[: len(rows) // 2 + 3])
    assert summary.kind == "recovered"
    assert len(rows) // 2 + 3 == 30 + 18  # one setting with five seeds, one with three of them
    assert "over 3 seeds and 2 settings." in summary.answer


@settings(max_examples=10, deadline=None)
@given(st.permutations(range(36)), st.sets(st.integers(0, 35), max_size=30))
def test_the_answer_does_not_depend_on_the_order_of_rows(order: list[int], gone: set[int]) -> None:
    rows = fake_rows(seeds=3, pairs=dict(list(PAIRS.items())[:2])).drop(index=list(gone))
    shuffled = rows.loc[[place for place in order if place not in gone]]
    first, second = summarise(rows), summarise(shuffled)
    assert (first.kind, len(first.lines)) == (second.kind, len(second.lines))
    if not gone:
        assert first.answer == second.answer
    for line in first.overall:
        assert len(line.seeds) == len(first.overall[0].seeds)


# The page.

HOSTILE = "<script>alert('x')</script>\"'><img src=x onerror=alert(1)>"


class Elements(HTMLParser):
    """Every element and attribute of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs


def test_the_page_answers_first_and_holds_everything(tmp_path: Path) -> None:
    run = fake_run(tmp_path / "run")
    path = write_report(run)
    assert path == run / "report.html"
    page = path.read_text(encoding="utf-8")
    text = text_of(page)
    summary = summarise_run(read_run(run))
    places = [
        text.index(summary.answer),
        text.index("From floor to ceiling"),
        text.index("The claims"),
        text.index("Every method"),
        text.index("Every seed"),
        text.index("How it was run"),
        text.index("How to read this"),
    ]
    assert places == sorted(places)
    assert "1 holds, 1 fails, 2 inconclusive" in text
    for claim in CLAIMS:
        assert claim["statement"] in text
    assert "generality run weak-to-strong --scale small --seeds 5" in text
    assert "steps.computed 131" in text
    assert "optimiser.lr 0.002" in text
    for seed in summary.lines[0].seeds:
        assert f"seed {seed.seed}: {seed.score:.3f}" in text


def test_the_same_files_give_the_same_bytes_and_nothing_else_is_left(tmp_path: Path) -> None:
    run = fake_run(tmp_path / "run")
    first = write_report(run).read_bytes()
    other = write_report(run, out=tmp_path / "new folder" / "page.html")
    assert other.read_bytes() == first
    assert sorted(path.name for path in other.parent.iterdir()) == ["page.html"]


def test_the_page_fetches_nothing_and_runs_nothing(tmp_path: Path) -> None:
    found = Elements(write_report(fake_run(tmp_path / "run")).read_text(encoding="utf-8"))
    assert not {"script", "link", "img", "iframe", "object"} & set(found.tags)
    assert not [name for name, _ in found.attributes if name == "src" or name.startswith("on")]


def test_everything_from_the_files_is_escaped(tmp_path: Path) -> None:
    rows = fake_rows(seeds=2).assign(method=HOSTILE, weak=HOSTILE)
    rows = pd.concat([rows, rows.assign(method="b", task=HOSTILE)]).rename(
        columns={"agreement": HOSTILE}
    )
    config = dict.fromkeys(
        ("study", "title", "scale", "seeds", "code_version", "floor_name", "ceiling_name"), HOSTILE
    )
    run = fake_run(
        tmp_path / "run",
        rows,
        **config,
        paper="https://" + HOSTILE,
        config={HOSTILE: {HOSTILE: [HOSTILE]}},
        conclusions=[HOSTILE],
    )
    claim = {**dict.fromkeys(CLAIMS[0], HOSTILE), "effect": 0.1, "low": 0, "high": 1, "p": 0.1}
    (run / "claims.json").write_text(json.dumps([claim]))
    (run / "environment.json").write_text(
        json.dumps({HOSTILE: HOSTILE, "started": HOSTILE, "steps": {"computed": HOSTILE}})
    )
    page = write_report(run).read_text(encoding="utf-8")
    assert page.count("&lt;script&gt;alert(") > 30
    found = Elements(page)
    assert not {"script", "img"} & set(found.tags)
    assert not [name for name, _ in found.attributes if name == "src" or name.startswith("on")]


def test_a_paper_that_is_no_web_address_is_no_link(tmp_path: Path) -> None:
    run = fake_run(tmp_path / "run", paper="javascript:alert(1)")
    assert "a" not in Elements(write_report(run).read_text(encoding="utf-8")).tags


def test_a_studys_paper_is_named_and_linked(tmp_path: Path) -> None:
    paper = {"title": "Weak-to-Strong", "arxiv": "2312.09390", "year": 2023}
    page = write_report(fake_run(tmp_path / "run", paper=paper)).read_text(encoding="utf-8")
    assert '<a href="https://arxiv.org/abs/2312.09390">Weak-to-Strong (2023)</a>' in page


def test_conclusions_stand_near_the_top(tmp_path: Path) -> None:
    nothing = dict.fromkeys(("score", "floor", "ceiling", "recovered"))
    run = fake_run(
        tmp_path / "run", fake_rows().assign(**nothing), conclusions=["Students disagree a lot."]
    )
    text = text_of(write_report(run).read_text(encoding="utf-8"))
    assert "Not measurable" in text
    assert text.index("Students disagree a lot.") < text.index("The claims")


@cache
def odd_runs() -> dict[str, pd.DataFrame]:
    long = "a very long name " * 12 + "without_any_place_to_break_it" * 6
    return {
        "one seed": fake_rows(seeds=1),
        "two seeds": fake_rows(seeds=2),
        "no gap": fake_rows(pairs={("w", "s"): (0.75, 0.75)}),
        "no ceiling": fake_rows().assign(ceiling=None, recovered=None),
        "no floor": fake_rows().assign(ceiling=None, floor=None, recovered=None),
        "all nulls": pd.DataFrame(
            {name: [None, None] for name in ("score", "floor", "ceiling", "recovered", "x")}
        ).assign(method="m", seed=[0, 1]),
        "many methods": fake_rows(
            pairs=dict(list(PAIRS.items())[:1]),
            methods={f"method {n}": n / 200 for n in range(200)},
        ),
        "many settings": fake_rows(pairs={("w", f"s{n}"): (0.6, 0.8) for n in range(10)}),
        "long names": fake_rows(
            pairs={(long, long[::-1]): (0.7, 0.8)}, methods={long: 0.4, long + "2": 0.6}
        ),
        "unicode": fake_rows(
            pairs={("弱い", "قوي"): (0.7, 0.8)}, methods={"метод 🜁": 0.5, "ａ\u202eb": 0.3}
        ),
        "no rows": pd.DataFrame(columns=["method", "seed", "score", "floor", "ceiling"]),
        "large scores": fake_rows(pairs={("w", "s"): (1234.0, 1500.0)}, spread=9),
        "identical scores": fake_rows(spread=0),
        "below the floor": fake_rows(methods={"worse": -0.6, "bad": -0.4}),
        "wild intervals": fake_rows(pairs={("w", "s"): (0.700, 0.712)}),
    }


@pytest.mark.parametrize("name", list(odd_runs()))
def test_odd_runs_have_a_page_a_table_and_json(name: str, tmp_path: Path) -> None:
    run = fake_run(tmp_path / "run", odd_runs()[name])
    page = write_report(run).read_text(encoding="utf-8")
    record = read_run(run)
    assert summarise_run(record).answer in text_of(page)
    for broken in ("nan%", "inf%", "None%", "nan</", ">nan", ">None<"):
        assert broken not in page
    for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        ElementTree.fromstring(svg)
        assert 'role="img"' in svg
    console = terminal()
    show_summary(console, record)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "\x1b" not in shown
    assert max(map(len, shown.splitlines())) <= 80
    assert json.loads(json.dumps(to_json(record), allow_nan=False))["answer"]


def test_a_surrogate_in_a_file_does_not_stop_the_page(tmp_path: Path) -> None:
    run = fake_run(tmp_path / "run", title="half a \ud83d face")
    assert "half a" in write_report(run).read_text(encoding="utf-8")


def test_a_folder_that_is_no_run_is_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"config\.json"):
        write_report(tmp_path)


# The terminal.


def test_tables_fit_80_columns_and_carry_no_colour_when_piped(tmp_path: Path) -> None:
    record = read_run(fake_run(tmp_path / "run"))
    console = terminal()
    show_summary(console, record)
    show_claims(console, record.claims)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "\x1b" not in shown
    assert max(map(len, shown.splitlines())) <= 80
    assert " ".join(summarise_run(record).answer.split()) in " ".join(shown.split())
    assert "✓ holds" in shown
    assert "< 0.001" in shown
    assert "+0.0301 to +0.0523" in shown
    assert shown.count("5 seeds") >= 3
    for method in METHODS:
        assert method in shown


def test_markup_and_control_characters_in_names_are_shown_not_obeyed(tmp_path: Path) -> None:
    name = "[red]x[/red] [/] \x1b[2J"
    record = read_run(fake_run(tmp_path / "run", fake_rows(methods={name: 0.5})))
    console = terminal(width=200)
    show_summary(console, record)
    show_claims(console, [{**CLAIMS[0], "statement": name}])
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert shown.count("[red]x[/red] [/]") >= 3
    assert "\x1b" not in shown


def test_json_holds_the_numbers_and_null_for_what_is_unknown(tmp_path: Path) -> None:
    rows = fake_rows(seeds=2).assign(extra=[np.nan, np.inf] * 18)
    value = to_json(read_run(fake_run(tmp_path / "run", rows)))
    assert value["kind"] == "recovered"
    assert value["best"]["method"] == "confidence (alpha=0.75)"
    assert value["best"]["low"] is None
    assert {row["extra"] for row in value["rows"]} == {None}
    assert len(value["rows"]) == 36


# The picture.


def test_the_picture_is_whole_svg_with_every_method(tmp_path: Path) -> None:
    run = fake_run(tmp_path / "run", title="A & B <i>")
    write_picture(run, tmp_path / "docs" / "recovered.svg")
    drawn = (tmp_path / "docs" / "recovered.svg").read_bytes()
    root = ElementTree.fromstring(drawn)
    words = ["".join(each.itertext()) for each in root.iter("{http://www.w3.org/2000/svg}text")]
    assert set(METHODS) <= set(words)
    assert "A & B <i>" in words
    marks = list(root.iter("{http://www.w3.org/2000/svg}circle"))
    assert [float(m.get("cx", 0)) for m in marks] == sorted(
        (float(m.get("cx", 0)) for m in marks), reverse=True
    )
    write_picture(run, tmp_path / "again.svg")
    assert (tmp_path / "again.svg").read_bytes() == drawn


def test_without_a_gap_there_is_no_picture(tmp_path: Path) -> None:
    run = fake_run(tmp_path / "run", fake_rows(pairs={("w", "s"): (0.75, 0.75)}))
    with pytest.raises(UserError, match="no gap"):
        write_picture(run, tmp_path / "x.svg")


# In a browser.

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-dev-shm-usage "
    "--disable-background-networking --disable-component-update --disable-sync "
    "--enable-logging=stderr"
)
# Every page stands in frames of the wanted sizes: a window has a least width of its own.
PROBE = """<!doctype html><meta charset="utf-8"><body style="margin:0">{frames}
<script>
window.addEventListener("load", () => {{
  const found = {{}};
  for (const frame of document.querySelectorAll("iframe")) {{
    const page = frame.contentDocument, root = page.documentElement;
    page.querySelectorAll("details").forEach(each => each.open = true);
    const boxes = [...page.querySelectorAll("svg")].map(each => each.getBoundingClientRect());
    found[frame.id] = {{
      width: root.clientWidth, scroll: root.scrollWidth, plots: boxes.length,
      flat: boxes.filter(box => box.width < 40 || box.height < 10).length,
      text: page.body.innerText.length,
    }};
  }}
  document.body.dataset.found = JSON.stringify(found);
}});
</script>"""
SIZES = {"phone": (390, 844), "small phone": (360, 740), "desk": (1280, 900)}
PAGES = ["usual", "long names", "many settings", "all nulls", "no gap"]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What headless Chromium made of the pages, and what it logged to the console."""
    if not CHROMIUM:
        pytest.skip("no chromium executable on PATH")
    folder = tmp_path_factory.mktemp("chromium")
    frames, plots = "", {}
    for name in PAGES:
        rows = fake_rows() if name == "usual" else odd_runs()[name]
        run = fake_run(folder / name, rows, command="generality run " + "x" * 300)
        page = write_report(run).read_text(encoding="utf-8")
        plots[name] = page.count("<svg")
        for size, (width, height) in SIZES.items():
            frames += (
                f'<iframe id="{name} on a {size}" srcdoc="{html.escape(page)}" '
                f'style="border:0;width:{width}px;height:{height}px"></iframe>'
            )
    probe = folder / "probe.html"
    probe.write_text(PROBE.format(frames=frames), encoding="utf-8")
    done = subprocess.run(
        [
            *(CHROMIUM, *FLAGS.split(), f"--user-data-dir={folder / 'profile'}"),
            *("--window-size=1280,900", "--dump-dom", probe.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    found = re.search(r'data-found="([^"]*)"', done.stdout)
    assert found, done.stderr
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return {"console": console, "plots": plots, **json.loads(html.unescape(found[1]))}


@pytest.mark.chromium
@pytest.mark.parametrize("size", list(SIZES))
@pytest.mark.parametrize("name", PAGES)
def test_a_browser_draws_every_plot_and_nothing_overflows(
    name: str, size: str, seen: dict[str, Any]
) -> None:
    found = seen[f"{name} on a {size}"]
    assert found["width"] <= SIZES[size][0]
    assert found["scroll"] <= found["width"]
    assert found["flat"] == 0
    assert found["plots"] == seen["plots"][name]
    assert found["plots"] > 5 or name == "all nulls"
    assert found["text"] > 500


@pytest.mark.chromium
def test_the_browsers_console_stays_empty(seen: dict[str, Any]) -> None:
    assert seen["console"] == []
