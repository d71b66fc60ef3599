"""What an Android device tells of itself without Python: the commands to ask with, and their output as values.

Any of it may be missing or forbidden on a phone; a value that is not there is None or absent, never guessed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

CPUINFO = ["cat", "/proc/cpuinfo"]
MEMINFO = ["cat", "/proc/meminfo"]
BATTERY = ["dumpsys", "battery"]
THERMAL = ["dumpsys", "thermalservice"]  # from Android 10 on
PROPERTIES = ["getprop"]
CLOCKS = ["sh", "-c", "grep -sH . /sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq"]
ZONES = ["sh", "-c", "grep -sH . /sys/class/thermal/thermal_zone*/type /sys/class/thermal/thermal_zone*/temp"]

# android.os.Temperature: what is measured, by number. 6 to 8 are a battery's limits of voltage, current and charge.
SENSOR_KINDS = {0: "cpu", 1: "gpu", 2: "battery", 3: "skin", 4: "usb_port", 5: "power_amplifier", 9: "npu"}
# android.os.PowerManager.THERMAL_STATUS_*; from 1 on the device slows down
THERMAL_STATUSES = ("none", "light", "moderate", "severe", "critical", "emergency", "shutdown")
PLAUSIBLE_C = (-40.0, 150.0)  # beyond, a zone that is switched off or measures something else


@dataclass(frozen=True)
class CpuInfo:
    """`isa` is what every core can do; `parts` are "implementer:part" of each core, as far as its kernel says."""

    name: str | None
    isa: tuple[str, ...]
    core_count: int
    parts: tuple[str, ...]


@dataclass(frozen=True)
class Battery:
    level_pct: float | None
    temperature_c: float | None
    voltage_mv: int | None
    plugged_in: bool | None


@dataclass(frozen=True)
class Sensor:
    name: str
    kind: str  # of SENSOR_KINDS, or "other"
    temperature_c: float


@dataclass(frozen=True)
class Thermal:
    status: str | None  # of THERMAL_STATUSES
    sensors: tuple[Sensor, ...]

    @property
    def throttled(self) -> bool | None:
        return None if self.status is None else self.status != "none"

    def hottest_c(self, *kinds: str) -> float | None:
        return max((sensor.temperature_c for sensor in self.sensors if sensor.kind in kinds), default=None)


def parse_cpuinfo(text: str) -> CpuInfo:
    names: dict[str, str] = {}
    isas: list[list[str]] = []
    implementers: list[str] = []
    parts: list[str] = []
    core_count = 0
    for line in text.splitlines():
        key, _, value = (part.strip() for part in line.partition(":"))
        if key == "processor" and value.isdigit():  # old kernels have "Processor: ARMv7 ..." as well
            core_count += 1
        elif key in ("Hardware", "model name", "Model", "Processor"):
            names.setdefault(key, value)
        elif key in ("Features", "flags"):
            isas.append(value.lower().split())
        elif key == "CPU implementer":
            implementers.append(value)
        elif key == "CPU part":
            parts.append(value)
    return CpuInfo(
        name=next((names[key] for key in ("Hardware", "model name", "Model", "Processor") if key in names), None),
        isa=tuple(word for word in (isas[0] if isas else []) if all(word in isa for isa in isas)),
        core_count=core_count,
        parts=tuple(f"{implementer}:{part}" for implementer, part in zip(implementers, parts, strict=False)),
    )


def parse_meminfo(text: str) -> dict[str, int]:
    """{"MemTotal": MiB, ...}; MemAvailable is not among them on kernels before 3.14."""
    found = re.findall(r"^(\S+):\s+(\d+) kB$", text, re.MULTILINE)
    return {key: int(kib) // 1024 for key, kib in found}


def parse_battery(text: str) -> Battery:
    # vendors add sections below, some with the same words in another unit: the first one counts
    found: dict[str, str] = {}
    for line in text.splitlines():
        key, colon, value = line.strip().partition(": ")
        if colon:
            found.setdefault(key, value.strip())
    level, scale = _whole(found.get("level")), _whole(found.get("scale"))
    tenths = _whole(found.get("temperature"))
    power = [found[key] == "true" for key in found if key.endswith(" powered")]
    return Battery(
        level_pct=None if level is None else 100 * level / (scale or 100),
        temperature_c=None if tenths is None else tenths / 10,
        voltage_mv=_whole(found.get("voltage")),
        plugged_in=any(power) if power else None,
    )


def parse_thermal(text: str) -> Thermal:
    """The temperatures of now, or, where the hardware gives none, the last that the service knew."""
    status = re.search(r"^\s*Thermal Status: (\d+)", text, re.MULTILINE)
    number = int(status[1]) if status else -1
    _, now, rest = text.partition("Current temperatures from HAL:")
    section = rest.partition("Current cooling devices")[0] if now else text
    sensors = []
    for line in section.splitlines():
        found = re.search(r"Temperature\{mValue=([-\d.]+), mType=(-?\d+), mName=(.*), mStatus=", line)
        # exactly 0 is a sensor that is not fitted; vendors' own kinds (-1) and limits need not be degrees
        if found and float(found[1]) and _plausible(float(found[1])) and not 6 <= int(found[2]) <= 8:
            sensors.append(Sensor(found[3], SENSOR_KINDS.get(int(found[2]), "other"), float(found[1])))
    return Thermal(THERMAL_STATUSES[number] if 0 <= number < len(THERMAL_STATUSES) else None, tuple(sensors))


def parse_properties(text: str) -> dict[str, str]:
    """`getprop`: lines of [key]: [value]; a value may have line ends in it."""
    return dict(re.findall(r"^\[([^\]\n]+)\]: \[(.*?)\]$", text, re.MULTILINE | re.DOTALL))


def parse_clocks(text: str) -> dict[int, int]:
    """{core: MHz} of what CLOCKS prints; cores that are off have none."""
    return {
        int(core): int(khz) // 1000 for core, khz in re.findall(r"/cpu(\d+)/cpufreq/\w+:(\d+)$", text, re.MULTILINE)
    }


def parse_zones(text: str) -> dict[str, float]:
    """{type of the zone: °C} of what ZONES prints; of several zones of one type the hottest."""
    types = dict(re.findall(r"/(thermal_zone\d+)/type:(.*)$", text, re.MULTILINE))
    hottest: dict[str, float] = {}
    for zone, value in re.findall(r"/(thermal_zone\d+)/temp:(-?\d+)$", text, re.MULTILINE):
        # thousandths of a degree by the kernel's own rule, which some vendors' drivers break with whole degrees
        celsius = int(value) / 1000 if abs(int(value)) >= 1000 else float(value)
        name = types.get(zone, zone)
        if _plausible(celsius):
            hottest[name] = max(celsius, hottest.get(name, celsius))
    return hottest


def _plausible(celsius: float) -> bool:
    return PLAUSIBLE_C[0] <= celsius <= PLAUSIBLE_C[1]


def _whole(value: str | None) -> int | None:
    return int(value) if value is not None and re.fullmatch(r"-?\d+", value) else None
