"""Which code a corpus may take, by what its licence says."""

from __future__ import annotations

import re
from collections.abc import Collection

PERMISSIVE = frozenset({"MIT", "Apache-2.0", "BSD-3-Clause", "BSD-2-Clause"})


def license_filter(
    expression: str,
    detected: Collection[str] = (),
    *,
    allowed: Collection[str] = PERMISSIVE,
    strict: bool = True,
) -> bool:
    """Whether one of the alternatives that an SPDX expression offers is allowed.

    Alternatives are what stands between the word OR; one that joins licences (AND) or changes one
    (WITH) is not allowed. Parentheses around a single licence are passed over, others are refused.

    Args:
        expression: declared by the package: "MIT OR Apache-2.0".
        detected: licences that a scan of its licence files found.
        allowed: SPDX identifiers.
        strict: the alternative must be detected too.

    Source: Grossman et al. 2023 (arXiv 2309.15432), section 3 and llvm-ir-dataset-utils, which cuts
    at the letters OR wherever they stand; here at the word.

    >>> license_filter("MIT OR GPL-3.0", ["MIT"]), license_filter("MIT AND Zlib", ["MIT"])
    (True, False)
    >>> license_filter("Apache-2.0"), license_filter("Apache-2.0", strict=False)
    (False, True)
    """
    known = {name.casefold() for name in allowed}
    found = {name.casefold() for name in detected}
    for alternative in re.split(r"\s+OR\s+|/", expression.strip()):
        name = alternative.strip().removeprefix("(").removesuffix(")").strip().casefold()
        if name in known and (name in found or not strict):
            return True
    return False


def licence_of(text: str) -> str:
    """The SPDX identifier of the licence that a text is, by its wording; "" where unknown.

    >>> licence_of("Permission is hereby granted, free of charge, to any person obtaining a copy")
    'MIT'
    """
    words = re.sub(r"\W+", " ", text).casefold()
    if "apache license version 2 0" in words:
        return "Apache-2.0"
    if "permission is hereby granted free of charge to any person" in words:
        return "MIT"
    if "redistribution and use in source and binary forms" in words:
        third = "neither the name" in words or "may not be used to endorse" in words
        return "BSD-3-Clause" if third else "BSD-2-Clause"
    if "boost software license" in words:
        return "BSL-1.0"
    if "gnu general public license" in words:
        return "GPL"
    if "provided as is without any express or implied" in words:
        return "Zlib"
    return ""
