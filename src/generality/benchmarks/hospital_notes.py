"""Generated discharge notes of four hospitals, where it is known whom a model must fail and why."""

from __future__ import annotations

import numpy as np
import pandas as pd

HOSPITALS = {"north": 0.60, "east": 0.25, "south": 0.12, "west": 0.03}
"""Each hospital's share of the notes."""

_BAD = (
    "worsening dyspnea", "poor adherence", "recurrent falls", "uncontrolled glucose",
    "persistent edema", "missed follow up", "recent sepsis", "severe anemia",
)  # fmt: skip
_GOOD = (
    "stable gait", "good adherence", "clear lungs", "controlled glucose", "independent at home",
    "follow up arranged", "normal labs", "pain resolved",
)  # fmt: skip
_WEST_BAD = (
    "sob increasing", "noncompliant", "unsteady", "sugars erratic", "swelling ongoing",
    "no show", "septic episode", "low hemoglobin",
)  # fmt: skip
_WEST_GOOD = (
    "walks well", "compliant", "chest unremarkable", "sugars fine", "self caring",
    "clinic booked", "bloods fine", "comfortable",
)  # fmt: skip
_LATE_BAD = (
    "code dyspnea rising", "code adherence low", "code fall risk", "code glucose high",
    "code edema", "code absent", "code sepsis", "code anemia",
)  # fmt: skip
_LATE_GOOD = (
    "code gait ok", "code adherence ok", "code lungs ok", "code glucose ok", "code independent",
    "code booked", "code labs ok", "code no pain",
)  # fmt: skip
_FILLER = (
    "patient was seen on rounds", "diet was advanced as tolerated", "family was updated",
    "medications were reviewed", "vital signs were recorded", "physical therapy was consulted",
    "the room was changed", "consent was obtained", "imaging was discussed with the team",
    "the chart was reviewed", "questions were answered", "transport was requested",
)  # fmt: skip
_INSURANCE = ("private", "medicare", "government", "unspecified")
_BOROUGHS = ("harbor", "hill", "market", "mill", "park")


def hospital_notes(
    n: int,
    *,
    seed: int = 0,
    hospital: str | None = None,
    drift: float = 0.5,
    days: int = 730,
    drift_from: float = 0.75,
) -> pd.DataFrame:
    """Notes with a readmission label; a model that reads the text fails for four known reasons.

    The severity of a stay decides both the findings in its note and the label. What makes the
    label hard to read off a note, and therefore drives failures:

    - *hospital*: "west" (3 % of the notes) uses words of its own for every finding;
    - *comorbidities*: the label follows severity less the more illnesses a patient has (its
      log-odds are 4·severity·0.75^comorbidities);
    - *words*: findings come after the routine sentences, so that a reader of the first words of a
      long note misses them;
    - *time*: from `drift_from` of the period on, a share `drift` of the findings is written in
      codes that were not used before.

    Age goes with comorbidities and has no effect of its own. Insurance and borough have none.

    Args:
        n: notes.
        seed: of everything drawn.
        hospital: all notes from this one of `HOSPITALS`; None by their shares.
        drift: share of findings written as codes late in the period, in [0, 1].
        days: length of the period.
        drift_from: share of the period after which codes appear.

    Returns:
        Columns text, label, hospital, age (years), comorbidities, insurance, borough, words, day,
        severity (hidden from models: standard normal, the truth behind text and label).

    Raises:
        ValueError: for an unknown hospital, or n < 1.

    Source: stands in for the private notes of Jiang et al. 2024 (arXiv 2402.10965); own templates.

    >>> notes = hospital_notes(200)
    >>> notes["hospital"].value_counts().index[0], bool(0.3 < notes["label"].mean() < 0.7)
    ('north', True)
    """
    if n < 1 or (hospital is not None and hospital not in HOSPITALS):
        raise ValueError(f"n is at least 1 and hospital one of {', '.join(HOSPITALS)}")
    rng = np.random.default_rng(seed)
    names = list(HOSPITALS)
    where = rng.choice(names, size=n, p=list(HOSPITALS.values()))
    if hospital is not None:
        where = np.full(n, hospital)
    age = rng.normal(58, 17, size=n).clip(18, 95).round().astype(int)
    comorbidities = rng.poisson(np.maximum(0.3, 2.0 + (age - 58) / 15))
    severity = rng.normal(size=n)
    strength = 4.0 * 0.75**comorbidities
    label = (rng.random(n) < 1 / (1 + np.exp(-strength * severity))).astype(int)
    day = rng.integers(days, size=n)
    routine = rng.integers(1, 16, size=n)  # sentences before the findings
    texts = [
        _note(rng, where[i], severity[i], drift * (day[i] >= drift_from * days), routine[i])
        for i in range(n)
    ]
    return pd.DataFrame(
        {
            "text": texts, "label": label, "hospital": where, "age": age,
            "comorbidities": comorbidities, "insurance": rng.choice(_INSURANCE, size=n),
            "borough": rng.choice(_BOROUGHS, size=n), "words": [len(t.split()) for t in texts],
            "day": day, "severity": severity,
        }
    )  # fmt: skip


def _note(
    rng: np.random.Generator, hospital: str, severity: float, codes: float, routine: int
) -> str:
    sentences = [_FILLER[i] for i in rng.integers(len(_FILLER), size=routine)]
    bad, good = (_WEST_BAD, _WEST_GOOD) if hospital == "west" else (_BAD, _GOOD)
    signs = rng.random(5) < 1 / (1 + np.exp(-2.5 * severity))
    coded, chosen = rng.random(5) < codes, rng.integers(8, size=5)
    for is_bad, is_code, which in zip(signs, coded, chosen, strict=True):
        words = (_LATE_BAD if is_bad else _LATE_GOOD) if is_code else (bad if is_bad else good)
        sentences.append(words[which])
    return ". ".join(sentences) + "."
