"""Setting up what `emulated:aarch64` runs: Debian's aarch64 Python, and ONNX Runtime and numpy from PyPI, in the user's own folder.

`python -m edgenas.targets.emulation`. Nothing is installed into the system: apt reads its usual sources for another architecture with a
state of its own, packages are only unpacked, and wheels are only unzipped.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from edgenas import device
from edgenas.errors import EdgenasError

QEMU = "qemu-aarch64-static"
PYTHON = "usr/bin/python3.11"
PACKAGES = (
    *(
        "libc6",
        "python3.11-minimal",
        "libpython3.11-minimal",
        "libpython3.11-stdlib",
        "libexpat1",
        "zlib1g",
        "libstdc++6",
    ),
    *("libgcc-s1", "libffi8", "libssl3", "libbz2-1.0", "liblzma5", "libuuid1", "libcrypt1"),
)
WHEELS = (
    "onnxruntime==1.27.0",
    "numpy==2.3.5",
    "flatbuffers",
    "packaging",
    "protobuf",
)  # 1.28 and newer crash under qemu-user
PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux2014_aarch64")
LIMIT_S = 600


def root() -> Path:
    return device.user_folder("devices").parent / "emulated" / "aarch64"


def environment() -> dict[str, str]:
    """For the emulated process alone."""
    return {"PYTHONHOME": str(root() / "usr"), "PYTHONPATH": str(root() / "site"), "LD_LIBRARY_PATH": ""}


def is_set_up() -> bool:
    return (root() / PYTHON).exists() and (root() / "site" / "onnxruntime").is_dir()


def set_up() -> Path:
    """Whole or not at all. Raises EdgenasError with the tool's own last line where a step fails."""
    if is_set_up():
        return root()
    for tool, package in (("apt-get", "apt"), ("dpkg-deb", "dpkg"), (QEMU, "qemu-user-static")):
        if shutil.which(tool) is None:
            raise EdgenasError(f"setting up emulation needs {tool}", f"On Debian and Ubuntu: apt-get install {package}")
    root().parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root().parent) as name:
        folder = Path(name)
        made = folder / "root"
        made.mkdir()
        _unpack_debian(folder, made)
        _unzip_wheels(folder, made / "site")
        if root().exists():
            shutil.rmtree(root())
        made.rename(root())
    return root()


def _unpack_debian(folder: Path, made: Path) -> None:
    state = folder / "apt"
    for part in ("lists/partial", "cache/archives/partial"):
        (state / part).mkdir(parents=True)
    (state / "status").touch()
    options = {
        "APT::Architecture": "arm64",
        "APT::Architectures": "arm64",
        "Dir::State::lists": f"{state}/lists",
        "Dir::State::status": f"{state}/status",
        "Dir::Cache": f"{state}/cache",
        "APT::Sandbox::User": "root",
    }
    apt = ["apt-get", "-q", *(part for key, value in options.items() for part in ("-o", f"{key}={value}"))]
    _run([*apt, "update"], folder)
    _run([*apt, "download", *PACKAGES], folder)
    for package in sorted(folder.glob("*.deb")):
        _run(["dpkg-deb", "-x", str(package), str(made)], folder)


def _unzip_wheels(folder: Path, site: Path) -> None:
    wheels = folder / "wheels"
    platforms = [part for name in PLATFORMS for part in ("--platform", name)]
    pip = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "-q",
        "--disable-pip-version-check",
        "--no-deps",
        "--only-binary=:all:",
    ]
    _run([*pip, "--python-version", "3.11", *platforms, "-d", str(wheels), *WHEELS], folder)
    for wheel in sorted(wheels.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(site)


def _run(command: list[str], folder: Path) -> None:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=LIMIT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EdgenasError(f"setting up emulation failed: {error}") from error
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise EdgenasError(
            f"setting up emulation failed: {' '.join(command[:1])}: {said[-1] if said else done.returncode}",
            "It needs Debian 12's packages (python3.11 for arm64) and PyPI.",
        )


if __name__ == "__main__":
    try:
        print(set_up())
    except EdgenasError as problem:
        print(f"error: {problem}", file=sys.stderr)
        sys.exit(1)
