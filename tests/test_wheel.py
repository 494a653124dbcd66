"""The built wheel, installed into an environment of its own, away from the checkout."""

import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


def test_the_wheel_holds_the_package_its_marker_and_its_templates(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    package = {str(path.relative_to(ROOT / "src")) for path in ROOT.glob("src/generality/**/*.py")}
    assert package <= set(names)
    assert {"generality/py.typed", "generality/report/report.html.jinja"} <= set(names)
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not any(name.startswith(("tests/", "benchmarks/", "docs/")) for name in names)


@pytest.mark.slow
def test_the_wheel_runs_outside_the_checkout(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    # what the library needs is here already: borrow it instead of downloading it again
    purelib = sysconfig.get_path("purelib", vars={"base": str(tmp_path / "env")})
    borrowed = [line for line in sys.path if line.endswith("site-packages")]
    (Path(purelib) / "borrowed.pth").write_text("\n".join(borrowed))
    pip = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", "--force-reinstall"]
    subprocess.run([*pip, str(wheel)], check=True, cwd=tmp_path, capture_output=True)

    where = "import generality; print(generality.__file__)"
    home = subprocess.run([python, "-c", where], cwd=tmp_path, text=True, capture_output=True)
    assert str(tmp_path / "env") in home.stdout, home.stdout + home.stderr
    command = [tmp_path / "env" / "bin" / "generality", "run", "weak-to-strong", "--scale", "smoke"]
    done = subprocess.run(command, cwd=tmp_path, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "runs" / "weak-to-strong").glob("*/report.html"))
