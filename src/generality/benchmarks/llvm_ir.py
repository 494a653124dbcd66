"""Functions of LLVM's textual intermediate representation: read, normalised, hashed, counted.

Text is read as text, so that no LLVM is needed and files of any version since opaque pointers
(LLVM 15) go together.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import xxhash

_NAME = re.compile(r'(?P<sigil>[%@])(?P<name>"[^"]*"|[-\w.$]+)')
_LABEL = re.compile(r'^("[^"]*"|[-\w.$]+):')
_COMMENT = re.compile(r'^((?:[^";]|"[^"]*")*);.*$')
_METADATA = re.compile(r",?\s*![\w.]+(?:\s+![\w.]+)*(?:\([^)]*\))?|\s#\d+")
_PARENTHESISED = re.compile(
    r"\b(?:dereferenceable|dereferenceable_or_null|captures|range|memory|nofpclass|initializes"
    r"|dead_on_return|comdat|sret|byval|elementtype|align)\((?:[^()]|\([^()]*\))*\)"
)
_ATTRIBUTES = re.compile(
    r"\b(?:noundef|nonnull|nocapture|readonly|readnone|writeonly|writable|noalias|returned|signext"
    r"|zeroext|inreg|nofree|nounwind|willreturn|dead_on_unwind|dead_on_return|internal|private"
    r"|linkonce_odr|linkonce|weak_odr|weak|available_externally|external|hidden|protected|default"
    r"|dso_local|dso_preemptable|local_unnamed_addr|unnamed_addr|comdat|fastcc|ccc|personality ptr"
    r" @\S+|allocptr|allocalign|noreturn|cold|uwtable|nonlazybind|section \"[^\"]*\")(?=[\s,)({]|$)"
)
_ALIGN = re.compile(r",? align \d+")
_OPCODE = re.compile(r'^(?:%(?:"[^"]*"|[-\w.$]+) = )?(?:(?:tail|musttail|notail) )?([a-z_]+)(?!\w)')
_CONSTANT = re.compile(
    r'(?<![\w%@."$-])(?:-?\d+(?:\.\d+)?(?:e[+-]?\d+)?|0x[0-9A-Fa-f]+|c"[^"]*")(?![\w.])(?! x )'
)
_TARGET = re.compile(r"label %(\d+)")


@dataclass(frozen=True)
class IRFunction:
    """One definition in a module: the symbol's name and the text from `define` to `}`."""

    name: str
    text: str


@dataclass(frozen=True)
class IRCounts:
    """What a function is made of.

    Attributes:
        instructions: in all, terminators included.
        blocks: basic blocks, at least 1.
        loops: back edges of a depth-first walk from the entry.
        opcodes: how often each occurs.
    """

    instructions: int
    blocks: int
    loops: int
    opcodes: Counter[str]


def ir_functions(module: str) -> list[IRFunction]:
    """The functions that a module defines, in order; its declarations are passed over.

    >>> [f.name for f in ir_functions("define i32 @f() {\\n  ret i32 1\\n}\\ndeclare void @g()\\n")]
    ['f']
    """
    found: list[IRFunction] = []
    lines: list[str] = []
    for line in module.splitlines():
        if line.startswith("define ") or lines:
            lines.append(line)
        if lines and line.rstrip() == "}":
            symbol = re.search(r'@("[^"]*"|[-\w.$]+)\(', lines[0])
            found.append(IRFunction(symbol[1].strip('"') if symbol else "", "\n".join(lines)))
            lines = []
    return found


def normalize_ir(function: str) -> str:
    """A function's text with what is incidental taken out.

    Comments, metadata, alignment, linkage and most attributes go; what begins with % (values,
    blocks, named types) and @ (symbols, but for LLVM's intrinsics) is renamed in order of
    appearance. Symbols would otherwise tell the language by how it mangles them.

    >>> print(normalize_ir("define i32 @_Z1fi(i32 noundef %x) #0 {\\n"
    ...     "entry:  ; a comment\\n  %y = add nsw i32 %x, 7, !dbg !3\\n  ret i32 %y\\n}"))
    define i32 @0(i32 %0) {
    1:
      %2 = add nsw i32 %0, 7
      ret i32 %2
    }
    """
    names: dict[str, dict[str, str]] = {"%": {}, "@": {}}

    def rename(sigil: str, name: str) -> str:
        if sigil == "@" and name.startswith("llvm."):
            return name
        known = names[sigil]
        return known.setdefault(name.strip('"'), str(len(known)))

    kept = []
    for line in _plain(function):
        if label := _LABEL.match(line):
            kept.append(f"{rename('%', label[1])}:")
        else:
            kept.append(_NAME.sub(lambda m: m["sigil"] + rename(m["sigil"], m["name"]), line))
    return "\n".join(kept)


def _plain(function: str) -> Iterator[str]:
    for number, line in enumerate(function.splitlines()):
        line = _COMMENT.sub(r"\1", line).rstrip()
        if not line or line.lstrip().startswith("#dbg_"):
            continue
        line = _ALIGN.sub("", _METADATA.sub("", line))
        line = _ATTRIBUTES.sub("", _PARENTHESISED.sub("", line))
        indent = "  " if line.startswith(" ") else ""
        line = indent + re.sub(r"\s+", " ", line).strip()
        line = re.sub(r"\s+([,)])", r"\1", line).replace("( ", "(")
        if number == 0 and line.endswith(")"):
            line += " {"
        yield line


def structural_hash(function: str, *, constants: bool = True) -> str:
    """A fingerprint of opcodes, types, flags, control flow and, unless told not to, constants.

    Names of values and symbols, which value goes where, comments, metadata and attributes do not
    count, as in LLVM's detailed StructuralHash. Small functions (getters) often share one.

    Args:
        function: text of one definition.
        constants: False merges what differs in numbers only, which is often too much.

    >>> a = "define i32 @f(i32 %x) {\\n  %y = add i32 %x, 7\\n  ret i32 %y\\n}"
    >>> structural_hash(a) == structural_hash(a.replace("%x", "%7").replace("@f", "@g"))
    True
    >>> structural_hash(a) == structural_hash(a.replace("add", "sub"))
    False
    """
    text = normalize_ir(function)
    if not constants:
        text = _CONSTANT.sub("#", text)
    text = re.sub(r"(?<!label )%\d+", "%", text)
    return xxhash.xxh3_64_hexdigest(re.sub(r"@\d+", "@", text).encode())


def module_hash(module: str) -> str:
    """`structural_hash` of a module: that of its functions in order; "" where it defines none."""
    hashes = [structural_hash(function.text) for function in ir_functions(module)]
    return xxhash.xxh3_64_hexdigest(" ".join(hashes).encode()) if hashes else ""


def ir_counts(function: str) -> IRCounts:
    """Instructions, blocks, loops and the mix of opcodes of one definition.

    >>> counts = ir_counts("define i32 @f() {\\n  br label %a\\na:\\n  br label %a\\n}")
    >>> counts.instructions, counts.blocks, counts.loops, dict(counts.opcodes)
    (2, 2, 1, {'br': 2})
    """
    opcodes: Counter[str] = Counter()
    edges: dict[str, list[str]] = {"entry": []}
    block = "entry"
    for line in normalize_ir(function).splitlines()[1:]:
        if label := _LABEL.match(line):
            if not opcodes:  # the entry's own label
                edges = {}
            block = label[1]
            edges[block] = []
        elif (found := _OPCODE.match(line.strip())) and line.startswith("  "):
            opcodes[found[1]] += 1
            edges[block] += _TARGET.findall(line)
        else:  # the cases of a switch and the rest of an invoke stand on lines of their own
            edges[block] += _TARGET.findall(line)
    rest = {"to", "unwind", "catch", "cleanup", "filter"}  # second lines of invoke and landingpad
    for word in rest & set(opcodes):
        del opcodes[word]
    return IRCounts(sum(opcodes.values()), len(edges), _back_edges(edges), opcodes)


def _back_edges(edges: dict[str, list[str]]) -> int:
    start = next(iter(edges))
    found, seen, on_path = 0, {start}, {start}
    walk = [(start, iter(edges[start]))]
    while walk:
        block, targets = walk[-1]
        target = next(targets, None)
        if target is None:
            on_path.discard(block)
            walk.pop()
        elif target in on_path:
            found += 1
        elif target not in seen and target in edges:
            seen.add(target)
            on_path.add(target)
            walk.append((target, iter(edges[target])))
    return found
