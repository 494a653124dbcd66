"""Images in folders, as people and the public sets of several domains keep them.

A reader lists the images with their classes and domains; it opens them only to see that they can be
opened. Pixels are decoded when asked for.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from datasets import ClassLabel, Dataset, Features, Image, Value
from jaxtyping import Float, UInt8

from generality.benchmarks.table import read_rows
from generality.errors import UserError, import_extra, unknown

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
_SHOWN = 5  # file names in a message
_SAVED = ("state.json", "dataset_info.json", "dataset_dict.json")


@dataclass(frozen=True)
class ImageSet:
    """How a public set of several domains lies on disk.

    Attributes:
        domains: what a domain is called, and how else its folder is called in circulating copies
            (letter case, spaces, `-` and `_` make no difference).
        inside: folders that an archive puts around the domains.
        classes: names of the classes where the folders are numbered 0, 1, …
        lists: how a file that lists a split is called, each line `path label`; "" for none.
    """

    domains: dict[str, tuple[str, ...]]
    inside: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    lists: str = ""


IMAGE_SETS: dict[str, ImageSet] = {
    "PACS": ImageSet(
        {"photo": ("P",), "art_painting": ("A", "art"), "cartoon": ("C",), "sketch": ("S",)},
        inside=("PACS", "kfold", "pacs_data"),
        lists="{domain}_{split}_kfold.txt",
    ),
    "VLCS": ImageSet(
        {
            "Caltech101": ("CALTECH", "C"),
            "LabelMe": ("L",),
            "SUN09": ("SUN", "S"),
            "VOC2007": ("PASCAL", "VOC", "V"),
        },
        inside=("VLCS",),
        classes=("bird", "car", "chair", "dog", "person"),
    ),
    "OfficeHome": ImageSet(
        {"Art": ("A",), "Clipart": ("C",), "Product": ("P",), "Real World": ("R", "Real")},
        inside=("office_home", "OfficeHomeDataset_10072016", "OfficeHome"),
    ),
    "TerraIncognita": ImageSet(
        {f"location_{number}": (f"L{number}", number) for number in ("38", "43", "46", "100")},
        inside=("terra_incognita",),
    ),
    "DomainNet": ImageSet(
        {
            "clipart": ("clip",),
            "infograph": ("info",),
            "painting": ("paint",),
            "quickdraw": ("quick",),
            "real": (),
            "sketch": (),
        },
        inside=("domain_net", "DomainNet"),
        lists="{domain}_{split}.txt",
    ),
}
"""Sets whose images lie in folders by domain and class."""


@dataclass(frozen=True)
class ImageRow:
    """An image: its file, class and domain, and the split and group that the set gives it."""

    path: Path
    label: str
    domain: str
    split: str | None = None
    group: str | None = None


def read_images(
    source: str | Path,
    *,
    layout: str | None = None,
    split: str | None = None,
    image: str = "path",
    label: str = "label",
    domain: str | None = "domain",
    folder: str | Path | None = None,
    size: int | None = None,
    check: Literal["open", "decode", "none"] = "open",
    on_unreadable: Literal["refuse", "skip"] = "refuse",
    unlabelled: bool = False,
) -> Dataset:
    """List images with their classes and domains.

    Without a `layout`, `source` is

    - a folder with one folder per domain, and in it one per class;
    - a folder with one folder per class; all is one domain, called as the folder;
    - a table (see `read_rows`) with a column of paths.

    With one of `LAYOUTS` it is the folder of that public set, as published or as DomainBed and
    WILDS download it, by itself or in the folder around it:

    - "PACS", "VLCS", "OfficeHome", "TerraIncognita", "DomainNet": domain/class/image, the domains
      called as in any of the copies in circulation. VLCS as first published has
      domain/{train,crossval,test,full}/class, where `full` holds the others again and is read
      alone unless a `split` is asked for. Splits of PACS and DomainNet are read from their lists
      (`photo_train_kfold.txt`, `clipart_train.txt`), and DomainNet's `domain_net_duplicates.txt`,
      if it is there, from the images left out.
    - "camelyon17" (domain: the hospital, group: the slide), "iwildcam" (the camera's location, the
      sequence), "fmow" (the region, the year): WILDS, with its official splits train, val, test,
      id_val and id_test.

    Hidden files and files of other types are passed over.

    Args:
        source: a folder, or a table.
        layout: a key of `LAYOUTS` in any letter case, or None.
        split: only this one of the set's splits; None for every image.
        image, label, domain: columns of a table. Without a domain, None, all is one.
        folder: where a table's paths start; None for the folder of the table.
        size: add a column `image`, decoded when a row is read, as RGB of size × size pixels
            (bilinear, the proportions not kept, as in DomainBed).
        check: open every file and read its header, decode it all (finds files cut short; slow), or
            neither.
        on_unreadable: an image that is missing or cannot be opened is refused, or left out; the
            names are in the message, or in a warning.
        unlabelled: a table's rows may lack a label; theirs is None.

    Returns:
        Columns path (string), label (`ClassLabel`, names sorted, or numbers by size), domain
        (string), and `split` and `group` where the set has them; sorted by domain and path.

    Raises:
        UserError: no such folder, nothing in it, another layout, a domain of the set is missing,
            an unreadable image with on_unreadable="refuse".
        ValueError: another word for `check` or `on_unreadable`.
    """
    if check not in ("open", "decode", "none") or on_unreadable not in ("refuse", "skip"):
        raise ValueError(f"unknown check {check!r} or on_unreadable {on_unreadable!r}")
    if layout is not None:
        names = {_plain(name): name for name in LAYOUTS}
        if _plain(layout) not in names:
            raise unknown("layout of images", layout, LAYOUTS)
        layout = names[_plain(layout)]
    root = Path(source).expanduser()
    if layout is None and not root.is_dir():
        rows = _of_table(source, image, label, domain, folder, unlabelled)
    elif not root.is_dir():
        raise UserError(f"There is no folder {root}; name the one that holds {layout}.")
    else:
        rows = LAYOUTS[layout](root, split) if layout else _of_folders(root)
    if split is not None and layout is None:
        raise UserError("Only the public sets have splits; name the layout, or leave split out.")
    if not rows:
        of_split = f" of the split '{split}'" if split else ""
        raise UserError(f"There are no images{of_split} in '{root}'.")
    rows = sorted(rows, key=lambda row: (row.domain, row.path))
    if check != "none":
        rows = _readable(rows, check == "decode", on_unreadable)
    return _dataset(rows, size)


def is_image_folder(source: str | Path) -> bool:
    """Whether this is a folder, and no saved data set: one of images, then."""
    folder = Path(source).expanduser()
    return folder.is_dir() and not any((folder / name).is_file() for name in _SAVED)


def list_images(source: str | Path) -> Dataset:
    """Every image below a folder, hidden ones left out: a column `path`, sorted.

    Raises:
        UserError: there is none.
    """
    found = [str(path) for path in _images(Path(source).expanduser())]
    if not found:
        raise UserError(f"There are no images in '{source}'.")
    return Dataset.from_dict({"path": found})


def load_images(
    paths: Iterable[str | Path], size: int, *, as_bytes: bool = False
) -> Float[np.ndarray, "n 3 size size"] | UInt8[np.ndarray, "n 3 size size"]:
    """Pixels of image files: RGB, resized to size × size (bilinear), float32 in [0, 1].

    Of transparent images the colours are taken. Greys of more than 8 bits keep their depth: 16 bits
    are divided by 65,535; 32-bit whole numbers by 255 or 65,535 and fractions by 1, 255 or 65,535,
    the least that the image stays below.

    `as_bytes`: 0 to 255 instead, in a quarter of the memory.

    Raises:
        UserError: an image that cannot be read, by its name; Pillow is missing.

    >>> from tempfile import TemporaryDirectory
    >>> from PIL import Image
    >>> with TemporaryDirectory() as folder:
    ...     Image.new("L", (6, 4), 255).save(f"{folder}/white.png")
    ...     load_images([f"{folder}/white.png"], size=2).shape
    (1, 3, 2, 2)
    """
    picture = import_extra("PIL.Image", "vision")
    found = list(paths)
    pixels = np.empty((len(found), 3, size, size), dtype=np.uint8 if as_bytes else np.float32)
    for place, path in enumerate(found):
        try:
            with picture.open(path) as opened:
                if _is_deep(opened):
                    grey = _deep_grey(opened, size)
                    pixels[place] = (255 * grey).round() if as_bytes else grey
                    continue
                scaled = _scaled(opened, size)
        except (OSError, SyntaxError, ValueError, picture.DecompressionBombError) as error:
            raise UserError(f"The image {path} cannot be read: {error}.") from error
        shown = np.asarray(scaled).transpose(2, 0, 1)
        pixels[place] = shown if as_bytes else shown.astype(np.float32) / 255
    return pixels


def _scaled(opened: Any, size: int) -> Any:
    if _is_deep(opened):
        picture = import_extra("PIL.Image", "vision")
        opened = picture.fromarray((255 * _deep_grey(opened, size)).round().astype(np.uint8))
    return opened.convert("RGB").resize((size, size), 2)  # 2: Pillow's Resampling.BILINEAR


def _is_deep(opened: Any) -> bool:
    """Greys of more than 8 bits, which Pillow's conversion to RGB would cut off at white."""
    return opened.mode in ("I", "F") or opened.mode.startswith("I;16")


def _deep_grey(opened: Any, size: int) -> Float[np.ndarray, "size size"]:
    values = opened.convert("I").convert("F") if opened.mode != "F" else opened
    low, high = values.getextrema()
    tops = {"I": (255, 65_535), "F": (1, 255, 65_535)}.get(opened.mode, (65_535,))
    top = next((top for top in tops if high <= top), None)
    if top is None or low < 0:
        raise ValueError(f"its pixels run from {low:g} to {high:g}; save it with 8 or 16 bits")
    return np.asarray(values.resize((size, size), 2), dtype=np.float32) / top


# People's own folders and tables


def _of_folders(root: Path) -> list[ImageRow]:
    """One folder per class, or one per domain and in it one per class."""
    rows: dict[int, list[ImageRow]] = {}
    for path in _images(root):
        folders = path.relative_to(root).parts[:-1]
        domain = folders[0] if len(folders) == 2 else root.resolve().name
        label = folders[-1] if folders else ""
        rows.setdefault(len(folders), []).append(ImageRow(path, label, domain))
    if not rows:
        return []
    if len(rows) > 1 or not set(rows) <= {1, 2}:
        examples = ", ".join(str(rows[depth][0].path.relative_to(root)) for depth in sorted(rows))
        raise UserError(
            f"Images in {root} lie neither all as class/image nor all as domain/class/image "
            f"({examples}); sort them so, list them in a table, or name the layout of a public "
            f"set ({', '.join(LAYOUTS)})."
        )
    return next(iter(rows.values()))


def _of_table(
    source: str | Path,
    image: str,
    label: str,
    domain: str | None,
    folder: str | Path | None,
    unlabelled: bool,
) -> list[ImageRow]:
    table = read_rows(source, as_text=[label, image, *([domain] if domain else [])])
    for column in (image, label, *([domain] if domain else [])):
        if column not in table.column_names:
            raise unknown("column", column, table.column_names)
    start = Path(source).expanduser().parent if folder is None else Path(folder).expanduser()
    names = table.features[label]
    rows = []
    domains = table[domain][:] if domain else ["all"] * len(table)
    cells = zip(table[image][:], table[label][:], domains, strict=True)
    for number, (path, of_class, of_domain) in enumerate(cells, start=1):
        no_label = of_class is None or of_class == ""
        if any(cell is None or cell == "" for cell in (path, of_domain)) or (
            no_label and not unlabelled
        ):
            raise UserError(f"{source}, row {number}: an image needs a path, a label and a domain.")
        if not isinstance(path, str):
            raise UserError(f"Column '{image}' of {source} holds no paths of images.")
        name = "" if no_label else str(of_class)
        if isinstance(names, ClassLabel) and not no_label:
            name = names.int2str(of_class)
        rows.append(ImageRow(start / str(path), name, str(of_domain)))
    return rows


def _images(root: Path) -> Iterator[Path]:
    """Every image below a folder but hidden ones."""
    for folder, inner, files in os.walk(root, followlinks=True):
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES:
                yield Path(folder, name)


# Public sets by domain and class


def _reader(name: str) -> Callable[[Path, str | None], list[ImageRow]]:
    return lambda root, split: _of_set(name, IMAGE_SETS[name], root, split)


def _of_set(name: str, image_set: ImageSet, root: Path, split: str | None) -> list[ImageRow]:
    folders = _domain_folders(name, image_set, root)
    dropped = _listed_duplicates(next(iter(folders.values())).parent)
    rows = []
    for domain, folder in folders.items():
        if split is not None and image_set.lists:
            paths: Iterable[Path] = _listed(folder, image_set.lists, split)
        else:
            paths = _images(_of_split(name, folder, split))
        for path in paths:
            if path.relative_to(folder.parent).as_posix() not in dropped:
                rows.append(ImageRow(path, path.parent.name, domain, split))
    labels = {row.label for row in rows}
    if image_set.classes and labels <= {str(i) for i in range(len(image_set.classes))}:
        rows = [
            ImageRow(row.path, image_set.classes[int(row.label)], row.domain, row.split)
            for row in rows
        ]
    return rows


def _domain_folders(name: str, image_set: ImageSet, root: Path) -> dict[str, Path]:
    """The folder of every domain, in `root` or in one that the archive puts around them."""
    best: dict[str, Path] = {}
    for parent in (root, *(root / inner for inner in image_set.inside)):
        if not parent.is_dir():
            continue
        known = {_plain(child.name): child for child in sorted(parent.iterdir()) if child.is_dir()}
        found = {
            domain: known[_plain(alias)]
            for domain, others in image_set.domains.items()
            for alias in [next((a for a in (domain, *others) if _plain(a) in known), None)]
            if alias is not None
        }
        best = max(best, found, key=len)
    if missing := [domain for domain in image_set.domains if domain not in best]:
        raise UserError(f"{root} lacks the folders of {name}: {', '.join(missing)}.")
    return best


def _plain(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter not in " _-")


def _of_split(name: str, folder: Path, split: str | None) -> Path:
    """Where the class folders are: VLCS has splits above them, of which `full` is all of them."""
    splits = {child.name for child in folder.iterdir()} & {
        "train",
        "crossval",
        "val",
        "test",
        "full",
    }
    if split is None:
        return folder / "full" if "full" in splits else folder
    if split not in splits:
        raise UserError(
            f"{name} has no split '{split}' in {folder}"
            + (f"; it has {', '.join(sorted(splits))}." if splits else "; leave split out.")
        )
    return folder / split


def _listed(folder: Path, pattern: str, split: str) -> list[Path]:
    """Images that a set's own list names, one `path label` a line."""
    file = folder.parent / pattern.format(domain=folder.name, split=split)
    if not file.is_file():
        raise UserError(f"There is no {file}, which lists the split '{split}'; leave split out.")
    lines = file.read_text(encoding="utf-8").splitlines()
    return [folder.parent / line.rsplit(maxsplit=1)[0] for line in lines if line.strip()]


def _listed_duplicates(parent: Path) -> set[str]:
    file = parent / "domain_net_duplicates.txt"
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    return {line.strip() for line in lines}


# WILDS


def _wilds(root: Path, prefix: str, table: str, columns: Sequence[str]) -> tuple[Path, Any]:
    """The set's folder (`root`, or its newest `prefix_v…`) and its table, all as strings."""
    inner = sorted(root.glob(f"{prefix}_v*"))
    home = next((path for path in (root, *reversed(inner)) if (path / table).is_file()), None)
    if home is None:
        raise UserError(f"There is no {table} in {root}; name the folder of WILDS' {prefix}.")
    rows = pd.read_csv(home / table, dtype=str, keep_default_na=False)
    if lacking := [column for column in columns if column not in rows]:
        raise UserError(f"{home / table} lacks the column {', '.join(lacking)}.")
    return home, rows


def _chosen(rows: list[ImageRow], split: str | None) -> list[ImageRow]:
    known = {row.split for row in rows if row.split is not None}
    if split is not None and split not in known:
        raise unknown("split of these images", split, known)
    return [row for row in rows if split is None or row.split == split]


def _camelyon17(root: Path, split: str | None) -> list[ImageRow]:
    columns = ("patient", "node", "x_coord", "y_coord", "tumor", "slide", "center", "split")
    home, table = _wilds(root, "camelyon17", "metadata.csv", columns)
    rows = []
    for patient, node, x, y, tumor, slide, center, part in table[list(columns)].itertuples(
        index=False, name=None
    ):
        patch = f"patient_{patient}_node_{node}"
        rows.append(
            ImageRow(
                path=home / "patches" / patch / f"patch_{patch}_x_{x}_y_{y}.png",
                label=("normal", "tumor")[int(tumor)],
                domain=f"hospital_{center}",
                split={"1": "val", "2": "test"}.get(center, "train" if part == "0" else "id_val"),
                group=slide,
            )
        )
    return _chosen(rows, split)


def _iwildcam(root: Path, split: str | None) -> list[ImageRow]:
    columns = ("filename", "y", "location_remapped", "sequence_remapped", "split")
    home, table = _wilds(root, "iwildcam", "metadata.csv", columns)
    names: dict[str, str] = {}
    if (home / "categories.csv").is_file():
        _, classes = _wilds(home, "iwildcam", "categories.csv", ("y", "name"))
        names = dict(zip(classes["y"], classes["name"], strict=True))
    rows = [
        ImageRow(home / "train" / file, names.get(y, y), f"location_{location}", part, sequence)
        for file, y, location, sequence, part in table[list(columns)].itertuples(
            index=False, name=None
        )
    ]
    return _chosen(rows, split)


def _fmow(root: Path, split: str | None) -> list[ImageRow]:
    """Sequestered rows have no image; the others keep the numbers of the full table."""
    columns = ("split", "category", "country_code", "timestamp")
    home, table = _wilds(root, "fmow", "rgb_metadata.csv", columns)
    _, countries = _wilds(home, "fmow", "country_code_mapping.csv", ("alpha-3", "region"))
    regions = dict(zip(countries["alpha-3"], countries["region"], strict=True))
    rows = []
    for number, (part, category, country, time) in enumerate(
        table[list(columns)].itertuples(index=False, name=None)
    ):
        if part != "seq":
            year = int(time[:4])
            rows.append(
                ImageRow(
                    path=home / "images" / f"rgb_img_{number}.png",
                    label=category,
                    domain=regions.get(country) or "Other",
                    split=_fmow_split(part, year),
                    group=str(year),
                )
            )
    return _chosen(rows, split)


def _fmow_split(part: str, year: int) -> str | None:
    """Tested from 2016 on, validated from 2013 on, trained on before; None for rows left out."""
    if year >= 2013:
        wanted = "test" if year >= 2016 else "val"
        return wanted if part == wanted else None
    return {"train": "train", "val": "id_val", "test": "id_test"}.get(part)


LAYOUTS: dict[str, Callable[[Path, str | None], list[ImageRow]]] = {
    **{name: _reader(name) for name in IMAGE_SETS},
    "camelyon17": _camelyon17,
    "fmow": _fmow,
    "iwildcam": _iwildcam,
}
"""For each public set the reader of its folder: (folder, split) -> rows."""


# Files that cannot be read, and what is handed back


def _readable(rows: list[ImageRow], decode: bool, on_unreadable: str) -> list[ImageRow]:
    picture = import_extra("PIL.Image", "vision")

    def is_readable(row: ImageRow) -> bool:
        try:
            with picture.open(row.path) as opened:
                if decode:
                    opened.load()
            return True
        except (OSError, SyntaxError, ValueError, picture.DecompressionBombError):
            return False

    with ThreadPoolExecutor() as pool:
        good = list(pool.map(is_readable, rows))
    bad = [str(row.path) for row, readable in zip(rows, good, strict=True) if not readable]
    if not bad:
        return rows
    named = ", ".join(bad[:_SHOWN]) + (f" and {len(bad) - _SHOWN:,} more" if bad[_SHOWN:] else "")
    count = f"{len(bad):,} of {len(rows):,} images cannot be read: {named}"
    if on_unreadable == "refuse" or len(bad) == len(rows):
        raise UserError(
            f"{count}. Repair or remove them, or leave them out with --skip-unreadable "
            "(on_unreadable='skip')."
        )
    warnings.warn(f"{count}; they are left out.", stacklevel=3)
    return [row for row, readable in zip(rows, good, strict=True) if readable]


def _dataset(rows: list[ImageRow], size: int | None) -> Dataset:
    labels = sorted({row.label for row in rows} - {""}, key=_natural)
    codes = {name: code for code, name in enumerate(labels)}
    columns: dict[str, list[Any]] = {
        "path": [str(row.path) for row in rows],
        "label": [codes.get(row.label) for row in rows],
        "domain": [row.domain for row in rows],
    }
    kinds = {"path": Value("string"), "label": ClassLabel(names=labels), "domain": Value("string")}
    for name in ("split", "group"):
        values = [getattr(row, name) for row in rows]
        if any(value is not None for value in values):
            columns[name] = values
            kinds[name] = Value("string")
    if size is None:
        return Dataset.from_dict(columns, features=Features(kinds))
    columns["image"] = columns["path"]
    kinds["image"] = Image()
    dataset = Dataset.from_dict(columns, features=Features(kinds))

    def scale(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        return {"image": [_scaled(opened, size) for opened in batch["image"]]}

    return dataset.with_transform(scale, columns=["image"], output_all_columns=True)


def _natural(name: str) -> tuple[int, int, str]:
    """Whole numbers by size, before words."""
    return (0, int(name), name) if name.isdecimal() else (1, 0, name)
