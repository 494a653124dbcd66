"""Small functions that carry out one of twelve algorithms, each written in C, C++ and Rust.

The three say the same thing with other idioms: C indexes pointers, C++ calls the methods of a view,
Rust checks the bounds of slices and walks ranges by iterators.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

ALGORITHMS: dict[str, tuple[str, str]] = {  # parameters ("a": an array), body; K and C: constants
    "sum": ("a", "let s = K\nfor i in 0..n:\n  s = s + a[i] * C\nreturn s"),
    "maximum": ("a", "let s = 0 - K\nfor i in 0..n:\n  if a[i] > s:\n    s = a[i]\nreturn s + C"),
    "count": ("a", "let s = 0\nfor i in 0..n:\n  if a[i] % K == C:\n    s = s + 1\nreturn s"),
    "dot": ("ab", "let s = K\nfor i in 0..n:\n  s = s + a[i] * (b[i] + C)\nreturn s"),
    "search": ("ax", "for i in 0..n:\n  if a[i] * C == x + K:\n    return i\nreturn 0 - 1"),
    "bisect": (
        "ax",
        "let l = 0\nlet h = n\nwhile l < h:\n  let m = (l + h) / 2\n  if a[m] * C < x + K:\n"
        "    l = m + 1\n  else:\n    h = m\nreturn l",
    ),
    "reverse": (
        "a",
        "let l = 0\nlet h = n - 1\nwhile l < h:\n  let t = a[l] + K\n  a[l] = a[h] * C\n"
        "  a[h] = t\n  l = l + 1\n  h = h - 1\nreturn n",
    ),
    "sort": (
        "a",
        "for i in 0..n:\n  for j in 0..n - i - 1:\n    if a[j] * C > a[j + 1] * C + K:\n"
        "      let t = a[j]\n      a[j] = a[j + 1]\n      a[j + 1] = t\nreturn n",
    ),
    "gcd": ("xy", "if y == 0:\n  return x * C + K\nreturn self(y, x % y)"),
    "fibonacci": (
        "x",
        "let p = K\nlet q = C\nfor i in 0..x:\n  let t = (p + q) % 1000007\n  p = q\n  q = t\n"
        "return p",
    ),
    "power": (
        "xy",
        "let s = C\nlet p = x\nlet e = y\nwhile e > 0:\n  if e % 2 == 1:\n    s = s * p % K\n"
        "  p = p * p % K\n  e = e / 2\nreturn s",
    ),
    "prefix": ("a", "let s = K\nfor i in 0..n:\n  s = s + a[i]\n  a[i] = s * C\nreturn s"),
}
HEADERS = {
    "c": "#include <stdint.h>\n",
    "c++": "#include <stdint.h>\nnamespace { struct View {\n  int64_t* data; int64_t count;\n"
    "  int64_t& at(int64_t i) const { return data[i]; }\n"
    "  int64_t size() const { return count; }\n}; }\n",
    "rust": "#![allow(warnings)]\n",
}  # fmt: skip
_WORDS = "acc best cur done edge fold gain hold item jump key left mid next old part rest step tmp"


@dataclass(frozen=True)
class AlgorithmProgram:
    """One function.

    Attributes:
        name: its symbol, the same in every language; says nothing about the algorithm.
        algorithm: a key of `ALGORITHMS`.
        program: number of the distinct program of which this is an occurrence.
        package: number of the package that it is in, which settles its style.
        sources: the function's text in "c", "c++" and "rust".
    """

    name: str
    algorithm: str
    program: int
    package: int
    sources: dict[str, str]


def algorithm_programs(
    count: int, *, seed: int, distinct: int = 400, packages: int = 8, exponent: float = 0.7
) -> list[AlgorithmProgram]:
    """Functions drawn from distinct programs by a power law, as popular code is copied.

    Args:
        count: functions in all; they go round the packages.
        seed: of everything.
        distinct: programs to draw from: an algorithm, two constants and dead code.
        packages: each has its own names for variables, and its own way to write a loop.
        exponent: the program of rank r is drawn with a probability in proportion to r^−exponent.

    >>> [f] = algorithm_programs(1, seed=0, distinct=1)
    >>> sorted(f.sources), f.algorithm in ALGORITHMS
    (['c', 'c++', 'rust'], True)
    """
    rng, names = np.random.default_rng(seed), list(ALGORITHMS)
    pool = [
        (names[i % len(names)], *rng.integers(2, 99, 2).tolist(), rng.random() < 0.3)
        for i in rng.permutation(distinct)
    ]
    odds = np.arange(1, distinct + 1) ** -exponent
    drawn = rng.choice(distinct, count, p=odds / odds.sum())
    styles = [(bool(rng.random() < 0.5), rng.permutation(_WORDS.split())) for _ in range(packages)]
    functions = []
    for i, number in enumerate(drawn.tolist()):
        algorithm, k, c, dead = pool[number]
        loops, words = styles[i % packages]
        parameters, body = ALGORITHMS[algorithm]
        if dead:
            body = f"let z = {k} * {c}\n{body}"
        body = re.sub(r"\bK\b", str(k), re.sub(r"\bC\b", str(c), body))
        rename = dict(zip("slhmtpqeijz", words, strict=False))
        body = re.sub(r"\b[slhmtpqeijz]\b", lambda m: rename[m[0]], body)  # noqa: B023
        name = f"f{seed}_{i}"
        sources = {
            language: write_function(language, name, parameters, body, while_loops=loops)
            for language in HEADERS
        }
        functions.append(AlgorithmProgram(name, algorithm, number, i % packages, sources))
    return functions


def write_function(
    language: str, name: str, parameters: str, body: str, *, while_loops: bool
) -> str:
    """One function of the little language above, in C, C++ or Rust."""
    arrays = [p for p in parameters if p in "ab"]
    typed = {
        "c": lambda p: f"int64_t *{p}" if p in arrays else f"int64_t {p}",
        "c++": lambda p: f"View {p}" if p in arrays else f"int64_t {p}",
        "rust": lambda p: f"{p}: &mut [i64]" if p in arrays else f"{p}: i64",
    }[language]
    given = [typed(p) for p in parameters]
    if language == "c" and arrays:
        given.append("int64_t n")
    head = {
        "c": f"int64_t {name}({', '.join(given)}) {{",
        "c++": f'extern "C" int64_t {name}({", ".join(given)}) {{',
        "rust": f"#[no_mangle]\npub fn {name}({', '.join(given)}) -> i64 {{",
    }[language]
    lines = [head]
    ends: list[tuple[int, str]] = []  # indent of an open block, what stands before its brace
    for line in [*body.splitlines(), ""]:
        depth = (len(line) - len(line.lstrip())) // 2
        while ends and (ends[-1][0] >= depth or not line):
            _, last = ends.pop()
            lines.append("  " * (len(ends) + 1) + f"{last}}}")
        if line:
            text, last = _statement(language, line.strip(), name, while_loops)
            lines += ["  " * (depth + 1) + piece for piece in text.split("\n")]
            if text.endswith("{"):
                ends.append((depth, last))
    return "\n".join([*lines, "}"])


def _statement(language: str, line: str, name: str, while_loops: bool) -> tuple[str, str]:
    """A statement's text, and what its block must end with."""
    line = re.sub(r"\bself\(", f"{name}(", line)
    if language == "c++":
        line = re.sub(r"\b([ab])\[([^\]]+)\]", r"\1.at(\2)", line)
        line = re.sub(r"\bn\b", "a.size()", line)
    if language == "rust":
        line = re.sub(r"\b([ab])\[([^\]]+)\]", r"\1[(\2) as usize]", line)
        line = re.sub(r"\bn\b", "(a.len() as i64)", line)
    rust = language == "rust"
    declare = {"c": "int64_t", "c++": "auto", "rust": "let mut"}[language]
    kind = ": i64" if rust else ""
    if loop := re.fullmatch(r"for (\w+) in (\S+?)\.\.(.+):", line):
        v, low, high = loop.groups()
        low = f"int64_t({low})" if language == "c++" else low
        if while_loops:
            condition = f"{v} < {high}" if rust else f"({v} < {high})"
            return f"{declare} {v}{kind} = {low};\nwhile {condition} {{", f"{v} += 1; "
        if rust:
            return f"for {v} in {low}..{high} {{", ""
        return f"for ({declare} {v} = {low}; {v} < {high}; {v}++) {{", ""
    if block := re.fullmatch(r"(while|if) (.+):", line):
        return f"{block[1]} {block[2] if rust else f'({block[2]})'} {{", ""
    if line == "else:":
        return "else {", ""
    if let := re.fullmatch(r"let (\w+) = (.+)", line):
        value = f"int64_t({let[2]})" if language == "c++" else let[2]
        return f"{declare} {let[1]}{kind} = {value};", ""
    return f"{line};", ""


def module_source(functions: list[AlgorithmProgram], language: str) -> str:
    """A source file of these functions."""
    return HEADERS[language] + "\n".join(f.sources[language] for f in functions) + "\n"
