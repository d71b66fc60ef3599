"""What a user installs: a wheel of the tree, one from the sdist, an editable install; each run from an empty folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.test_build import write_photos

pytestmark = pytest.mark.heavy

ROOT = Path(__file__).resolve().parents[1]
KINDS = ("devices", "latency_tables", "datasets")
PROGRAM = """
import json, sys
import edgenas
from edgenas import device
def files(folder):
    found = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return sorted(path.relative_to(folder).as_posix() for path in found)
print(json.dumps({
    "package": edgenas.__file__,
    "names": device.names(),
    "host": device.load("host").id,
    "shipped": {kind: files(device.shipped(kind)) for kind in sys.argv[1:]},
}))
"""


@dataclass(frozen=True)
class Installed:
    """A virtual environment with edgenas in it, and an empty folder to run from."""

    python: Path
    empty: Path

    def run(self, *command: str | Path) -> str:
        return run(command, cwd=self.empty)


def run(command: Sequence[str | Path], cwd: Path) -> str:
    """The command's stdout; its output is in the failure. The developer's own paths and device files are kept out."""
    hidden = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "EDGENAS_HOME")
    env = {key: value for key, value in os.environ.items() if key not in hidden} | {"EDGENAS_HOME": str(cwd / "home")}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, f"{command} said {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def files(folder: Path) -> list[str]:
    found = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return sorted(path.relative_to(folder).as_posix() for path in found)


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sdist")
    run([sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", out, ROOT], cwd=out)
    (archive,) = out.glob("*.tar.gz")
    return archive


@pytest.fixture(scope="module", params=["wheel", "sdist", "editable"])
def installed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp(request.param)
    empty = folder / "empty"
    empty.mkdir()
    run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], cwd=folder)
    scripts = folder / "venv" / ("Scripts" if os.name == "nt" else "bin")
    python = scripts / Path(sys.executable).name
    python = python if python.exists() else scripts / "python"
    purelib = Path(run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], cwd=folder).strip())
    # The dependencies come from this environment. Path files there are not read, so its own edgenas stays hidden.
    outer = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (purelib / "outer.pth").write_text("\n".join(sorted(outer)), encoding="utf-8")
    sources: dict[str, list[str | Path]] = {
        "wheel": [ROOT],
        "sdist": [request.getfixturevalue("sdist")],
        "editable": ["--editable", ROOT],
    }
    pip: list[str | Path] = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "--no-deps",
        "--no-build-isolation",
    ]
    run([*pip, "--no-index", "--ignore-installed", *sources[request.param]], cwd=folder)
    location = Path(run([python, "-c", "import edgenas; print(edgenas.__file__)"], cwd=empty).strip())
    assert location.is_relative_to(ROOT if request.param == "editable" else purelib)
    return Installed(python, empty)


def test_the_sdist_has_what_a_build_and_a_developer_need(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        inside = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    needed = {"pyproject.toml", "README.md", "LICENSE", "NOTICE", "CHANGELOG.md", "Makefile", "constraints.txt"}
    needed |= {".ci/run", "tests/test_packaging.py", "edgenas/device.py"}
    needed |= {f"{kind}/{name}" for kind in KINDS for name in files(ROOT / kind)}
    assert not needed - inside


def test_it_finds_its_devices_tables_and_data(installed: Installed) -> None:
    kinds = [kind for kind in KINDS if files(ROOT / kind)]
    assert "devices" in kinds
    said = json.loads(installed.run(installed.python, "-c", PROGRAM, *kinds))
    assert said["host"] == "host"
    assert {"host", "jetson-nano", "raspberry-pi-4"} <= set(said["names"])
    assert said["shipped"] == {kind: files(ROOT / kind) for kind in kinds}


def test_it_has_every_file_of_the_package(installed: Installed) -> None:
    program = "import edgenas, pathlib; print(pathlib.Path(edgenas.__file__).parent)"
    package = Path(installed.run(installed.python, "-c", program).strip())
    assert not set(files(ROOT / "edgenas")) - set(files(package))


def test_the_command_lists_devices_from_an_empty_folder(installed: Installed) -> None:
    if not (ROOT / "edgenas" / "cli.py").is_file():
        pytest.skip("edgenas/cli.py does not exist yet")
    said = installed.run(installed.python.parent / "edgenas", "devices")
    assert "jetson-nano" in said
    assert "raspberry-pi-4" in said


def test_the_command_starts_a_device_of_the_users_own(installed: Installed) -> None:
    said = installed.run(installed.python.parent / "edgenas", "devices", "--new", "my-board")
    assert Path(said.strip()) == installed.empty / "home" / "devices" / "my-board.yaml"
    assert "my-board: my-board" in installed.run(installed.python.parent / "edgenas", "devices", "my-board")


TINY_BUILD = """
import json
from pathlib import Path

from edgenas import data, device
from edgenas.latency.profile import ProfilePlan
from edgenas.nets.recipe import Recipe
from edgenas.pipeline.build import build
from edgenas.pipeline.request import BuildRequest, Effort, Rung
from edgenas.progress import Progress
from edgenas.search.strategy import SearchRule

once = Recipe(epochs=1)
rule = SearchRule(explored=6, neighbours=4, start=4, population=4, evaluations=8, patience=4)
effort = Effort(ProfilePlan(covering=4, odd=1, held_out=2), once, once, (Rung(1, once),), once, rule, max_resolution_px=28, rounds=1)
request = BuildRequest(device="host", out=Path("out"), data="photos", latency_ms=50.0, effort="quick")
result = build(request, Progress(quiet=True), effort=effort)
sample = data.load(None, sample_dir=device.shipped("datasets") / "fashion-mnist-sample")
print(json.dumps({"images": len(sample.train), "shipped": result["winner"]["path"]}))
"""


def test_it_builds_from_an_empty_folder_and_has_images_of_its_own(installed: Installed) -> None:
    """With nothing but the package: its data, device, agent files and report template are all in it."""
    if "editable" in str(installed.python) or "sdist" in str(installed.python):
        pytest.skip("it takes long: once, from the wheel")
    write_photos(installed.empty / "photos")
    said = json.loads(installed.run(installed.python, "-c", TINY_BUILD).splitlines()[-1])
    assert said["images"] == 10_500
    assert (installed.empty / "out" / said["shipped"]).is_file()
    assert "<svg" in (installed.empty / "out" / "report.html").read_text(encoding="utf-8")
