"""`edgenas doctor`: what this machine and a target have and lack. Every line that isn't good says how to mend it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from edgenas import __version__, device
from edgenas.errors import EdgenasError

State = Literal["good", "note", "bad"]
MARKS = {"good": "ok  ", "note": "note", "bad": "BAD "}
PACKAGES = ("torch", "onnx", "onnxruntime", "nncf", "numpy", "pymoo")
LEAST_FREE_MIB = 2048
LEAST_FREE_ON_DEVICE_MIB = 200
BUSY_LOAD = 0.5  # of the cores
HOT_C = 70.0
LOW_BATTERY_PCT = 20


@dataclass(frozen=True)
class Line:
    """`where`: this machine, or the target's name. `remedy` is empty where nothing has to be done."""

    where: str
    what: str
    state: State
    found: str
    remedy: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def examine(target: str | None) -> list[Line]:
    found = [*_this_machine(), *_ways_to_devices()]
    if target is not None:
        found += _target(target)
    return found


def is_fit(lines: Sequence[Line]) -> bool:
    return all(line.state != "bad" for line in lines)


def describe(lines: Sequence[Line]) -> str:
    text: list[str] = []
    where = ""
    for line in lines:
        if line.where != where:
            where = line.where
            text += ["", where] if text else [where]
        text.append(f"  {MARKS[line.state]}  {line.what}: {line.found}")
        if line.remedy:
            text.append(f"          {line.remedy}")
    return "\n".join(text)


def _this_machine() -> Iterator[Line]:
    here = f"This machine ({platform.platform()})"
    yield Line(here, "edgenas", "good", __version__)
    python = platform.python_version()
    new_enough = sys.version_info >= (3, 11)
    yield Line(
        here, "Python", "good" if new_enough else "bad", python, "" if new_enough else "3.11 or newer is needed."
    )
    for name in PACKAGES:
        try:
            yield Line(here, name, "good", importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            yield Line(here, name, "bad", "not installed", f"pip install {name}, or install edgenas again.")
    cores, load = os.cpu_count() or 1, os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    if load is not None:
        busy = load > BUSY_LOAD * cores
        remedy = "Close what else runs before measuring on this machine." if busy else ""
        yield Line(here, "load", "note" if busy else "good", f"{load:.2f} on {cores} cores", remedy)
    yield _governor(here, _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"))
    free_mib = shutil.disk_usage(Path.cwd()).free // 2**20
    low = free_mib < LEAST_FREE_MIB
    remedy = "A build keeps checkpoints: free some space, or name another --out." if low else ""
    yield Line(here, "free disk space", "note" if low else "good", f"{free_mib / 1024:.1f} GiB", remedy)
    home = device.user_folder("devices").parent
    yield Line(here, "your devices and tables", "good", str(home))


def _ways_to_devices() -> Iterator[Line]:
    """Each is only needed for devices of its kind."""
    here = "Ways to devices"
    yield _tool(here, "ssh", "ssh", "for --target ssh://user@host: install an OpenSSH client.")
    yield _tool(here, "adb", "adb", "for Android devices: install Android's platform tools.")
    yield _tool(here, "qemu-aarch64", "qemu-aarch64-static", "for emulated:aarch64: apt-get install qemu-user-static.")
    trtexec = shutil.which("trtexec", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/src/tensorrt/bin"]))
    yield Line(here, "trtexec", "good" if trtexec else "note", trtexec or "not on this machine",
               "" if trtexec else "Only needed on a device with TensorRT; JetPack brings it along.")  # fmt: skip


def _tool(where: str, what: str, command: str, remedy: str) -> Line:
    path = shutil.which(command)
    return Line(where, what, "good" if path else "note", path or "not installed", "" if path else remedy.capitalize())


def _target(address: str) -> Iterator[Line]:
    from edgenas.runtimes.runtime import agent_on, load_runtime
    from edgenas.runtimes.runtime import names as runtime_names
    from edgenas.targets.target import open_target

    try:
        target = open_target(address)
    except EdgenasError as error:
        yield Line(address, "address", "bad", error.message, error.hint)
        return
    try:
        probe: dict[str, Any] = {}
        for runtime in map(load_runtime, runtime_names()):
            name = runtime.NAME
            if not target.has_python and runtime.ANDROID_PART is None:
                continue
            try:
                probe = agent_on(target, runtime).request({"do": "probe"})
            except EdgenasError as error:
                yield Line(target.name, "connection" if not probe else name, "bad", error.message, error.hint)
                return
            version = probe["runtime_versions"].get(name)
            yield Line(target.name, name, "good" if version else "note", version or "not there",
                       "" if version else runtime.remedy(target.has_python))  # fmt: skip
            if version and (caveat := runtime.caveat(version)):
                yield Line(
                    target.name, f"{name}'s formats", "note", "not verified", f"{caveat[0].upper()}{caveat[1:]}."
                )
        if target.provenance == "emulated":
            yield Line(target.name, "timings", "note", "of an emulator, never of a real processor")
        yield from _state(target.name, probe)
    finally:
        target.close()


def _state(where: str, probe: Mapping[str, Any]) -> Iterator[Line]:
    """Of the device right now."""
    name = " ".join(str(probe[key]) for key in ("model", "cpu_name", "machine") if probe.get(key))
    yield Line(where, "device", "good", f"{name}, {probe['cores']} cores, {probe['ram_mib'] or '?'} MiB RAM")
    python = f", agent's Python {probe['python']}" if probe["python"] else ""
    yield Line(where, "system", "good", probe["system"] + python)
    if probe["python"]:  # the owner of a phone can't change it
        yield _governor(where, probe["governor"])
    if battery := probe.get("battery"):
        yield _battery(where, battery)
    if mode := probe.get("power_mode"):
        full = mode["number"] == 0
        remedy = "" if full else "Mode 0 is the full one on most Jetsons: sudo nvpmodel -m 0; sudo jetson_clocks."
        yield Line(where, "power mode", "good" if full else "note", f"{mode['name']} ({mode['number']})", remedy)
    if (hot := probe.get("temperature_c")) is not None:
        remedy = "Let it cool down, or give it a fan: it may throttle." if hot > HOT_C else ""
        yield Line(where, "temperature", "note" if hot > HOT_C else "good", f"{hot:.0f} °C", remedy)
    if (free := probe.get("disk_free_mib")) is not None:
        low = free < LEAST_FREE_ON_DEVICE_MIB
        remedy = "Models and engines are put there: free some space." if low else ""
        yield Line(where, "free space for files", "bad" if low else "good", f"{free} MiB", remedy)
    if (load := probe.get("load")) is not None and load > BUSY_LOAD * (probe["cores"] or 1):
        yield Line(
            where, "load", "note", f"{load:.2f}", "Something runs there; measurements will be repeated or marked."
        )


def _battery(where: str, battery: Mapping[str, Any]) -> Line:
    level = battery["level_pct"]
    low = level < LOW_BATTERY_PCT and not battery["powered"]
    charging = ", charging" if battery["powered"] else ""
    remedy = "Plug it in: a phone saves power when its battery is low." if low else ""
    return Line(where, "battery", "note" if low else "good", f"{level:.0f} %{charging}", remedy)


def _governor(where: str, governor: str | None) -> Line:
    if governor in (None, "performance"):
        return Line(where, "clock governor", "good", governor or "none that can be read")
    return Line(where, "clock governor", "note", str(governor),
                "Timings are steadier with: sudo cpupower frequency-set -g performance.")  # fmt: skip


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None
