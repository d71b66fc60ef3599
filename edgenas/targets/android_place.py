"""An Android device in the place of the agent's machine: what `on_device/place.py` and `probes.py` do, over adb.

The agent runs on the host and has one of these as `place.VIA`. A device that doesn't answer for a while is waited for, and what was
asked is asked again; DeviceAway and TargetError are for the reader as they are.
"""

from __future__ import annotations

import functools
import posixpath
from collections.abc import Mapping, Sequence
from typing import Any

from edgenas.targets import android_facts as facts
from edgenas.targets.adb_client import Adb, TimedOut

BASE = "${TMPDIR:-/data/local/tmp}"
# What is a day old is of somebody whom nobody will clean up after; +1 is more than one day for toybox's find, two for GNU's.
# Arguments: the work folder's name.
WORK_FOLDER = f"""
base={BASE}
mkdir -p "$base/$1" && touch "$base/$1" || exit 1
find "$base" -maxdepth 1 '(' -name 'edgenas-*' -o -name '.edgenas-*' ')' -mtime +1 -exec rm -rf '{{}}' ';' >/dev/null 2>&1
echo "$base/$1"
"""
# Arguments: the program's name, and where a user says that it is, or nothing.
FIND = f"""
if [ -n "$2" ]; then set -- "$2"; else set -- "{BASE}/$1" "$(command -v "$1")"; fi
for file; do if [ -f "$file" ]; then echo "$file"; break; fi; done
"""
# A run that the connection broke away from may go on; a second one beside it would disturb both.
# Arguments: a file for the process id, a file that the command writes, the command.
ALONE = """
pid=$1 result=$2
shift 2
if [ -f "$pid" ]; then kill -9 "$(cat "$pid")"; fi 2>/dev/null
rm -f "$result"
"$@" &
echo $! >"$pid"
wait $!
code=$?
rm -f "$pid"
exit $code
"""


def open_place(serial: str, programs: Mapping[str, str], **options: Any) -> AndroidPlace:
    return AndroidPlace(Adb(serial, **options), programs)


class AndroidPlace:
    """`programs`: where on the device programs are, by name, if a user says so."""

    def __init__(self, adb: Adb, programs: Mapping[str, str]) -> None:
        self._adb, self._programs = adb, programs
        self._arriving: dict[str, bytearray] = {}
        self._pulled = ("", b"")

    # As place.py has them

    def run(self, argv: Sequence[str], timeout_s: float = 10.0) -> tuple[int | None, str, str]:
        try:
            code, out, error = self._adb.shell(list(argv), timeout_s, repeatable=True)
        except TimedOut as late:
            return None, "", late.message
        return code, out.decode(errors="replace"), error.decode(errors="replace")

    def read(self, path: str) -> str | None:
        code, out, _ = self.run(["cat", path])
        return out.strip() if code == 0 else None

    def names(self, folder: str) -> list[str]:
        code, out, _ = self.run(["ls", "-1", folder])
        return sorted(out.splitlines()) if code == 0 else []

    def work_folder(self, token: str) -> str:
        self._adb.connect()
        code, out, error = self.run(["sh", "-c", WORK_FOLDER, "sh", "edgenas-" + token])
        if code != 0:
            raise OSError(error.strip() or "its folder for temporary files can't be written")
        return out.strip()

    def write(self, folder: str, name: str, token: str, offset: int, piece: bytes, last: bool) -> str:
        path = posixpath.join(folder, name)
        data = self._arriving.setdefault(token, bytearray())
        data[offset:] = piece
        if last:
            self._adb.push(bytes(data), path)
            del self._arriving[token]
        return path

    def read_piece(self, path: str, offset: int, count: int) -> tuple[bytes, bool]:
        if offset == 0 or self._pulled[0] != path:
            self._pulled = (path, self._adb.pull(path))
        data = self._pulled[1]
        more = offset + count < len(data)
        if not more:
            self._pulled = ("", b"")
        return data[offset : offset + count], more

    def remove(self, folder: str) -> None:
        self.run(["rm", "-rf", folder])

    # What a runtime's part needs besides

    def pull(self, path: str) -> bytes:
        return self._adb.pull(path)

    def run_alone(self, argv: Sequence[str], result: str, timeout_s: float) -> tuple[int | None, str, str]:
        """As `run`, for a command that writes the file `result`: what is left of an earlier one is ended and removed first."""
        return self.run(["sh", "-c", ALONE, "sh", posixpath.dirname(result) + "/running", result, *argv], timeout_s)

    def program(self, name: str) -> str | None:
        """Where it is on the device: where the user says, else in its folder for temporary files, else on its PATH."""
        return self.run(["sh", "-c", FIND, "sh", name, self._programs.get(name, "")])[1].strip() or None

    # As probes.py has them

    def probe(self, versions: dict[str, str], folder: str) -> dict[str, Any]:
        cpu, memory = facts.parse_cpuinfo(self._said(facts.CPUINFO)), facts.parse_meminfo(self._said(facts.MEMINFO))
        properties, battery = self._properties, facts.parse_battery(self._said(facts.BATTERY))
        online = self._said(["nproc"]).strip()
        release = properties.get("ro.build.version.release")
        return {
            "machine": self._said(["uname", "-m"]).strip(),
            "system": f"Android {release}" if release else "Android",
            "python": None,
            "cpu_name": properties.get("ro.soc.model") or cpu.name or properties.get("ro.board.platform"),
            "isa": list(cpu.isa),
            "cores": int(online) if online.isdigit() else cpu.core_count,
            "ram_mib": memory.get("MemTotal"),
            "disk_free_mib": self._free_mib(folder),
            "temperature_c": self.temperature_c(),
            "governor": self.read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
            "clock_mhz": self.clock_mhz(),
            "load": self.load(),
            "model": properties.get("ro.product.model"),
            "power_mode": None,
            "tegrastats": None,
            "battery": {
                "level_pct": battery.level_pct,
                "temperature_c": battery.temperature_c,
                "powered": battery.plugged_in,
            }
            if battery.level_pct is not None
            else None,
            "runtime_versions": versions,
        }

    def temperature_c(self) -> float | None:
        """The hottest of the processor as Android's thermal service says, else of all zones that can be read."""
        service = facts.parse_thermal(self._said(facts.THERMAL)).hottest_c("cpu")
        return service or max(facts.parse_zones(self._said(facts.ZONES)).values(), default=None)

    def clock_mhz(self) -> int | None:
        return max(facts.parse_clocks(self._said(facts.CLOCKS)).values(), default=None)

    def load(self) -> float | None:
        words = self._said(["cat", "/proc/loadavg"]).split()
        return float(words[0]) if words else None

    @functools.cached_property
    def _properties(self) -> dict[str, str]:
        return facts.parse_properties(self._said(facts.PROPERTIES))

    def _free_mib(self, folder: str) -> int | None:
        rows = self._said(["df", "-k", folder]).splitlines()
        cells = rows[-1].split() if len(rows) > 1 else []
        return int(cells[3]) // 1024 if len(cells) > 3 and cells[3].isdigit() else None

    def _said(self, argv: Sequence[str]) -> str:
        """Even with an exit code that says that a part of it could not be read."""
        return self.run(argv)[1]
