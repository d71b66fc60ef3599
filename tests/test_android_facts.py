"""What Android devices print, as values: texts of real devices, and what vendors are known to do to them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgenas.targets import android_facts as facts

GOLDEN = Path(__file__).with_name("golden") / "android"
THERMAL_STATUS = """IsStatusOverride: false
Thermal Status: 2
Cached temperatures:
	Temperature{mValue=99.0, mType=0, mName=BIG, mStatus=3}
HAL Ready: true
Current temperatures from HAL:
	Temperature{mValue=41.5, mType=0, mName=BIG, mStatus=0}
	Temperature{mValue=33.9, mType=-1, mName=neutral, therm, mStatus=1}
	Temperature{mValue=0.0, mType=4, mName=USB, mStatus=0}
	Temperature{mValue=38.0, mType=3, mName=skin, mStatus=2}
	Temperature{mValue=4200.0, mType=6, mName=vbat, mStatus=0}
	Temperature{mValue=-5700.0, mType=-1, mName=virtual, mStatus=0}
Current cooling devices from HAL:
	CoolingDevice{mValue=88, mType=2, mName=cpufreq}
"""


def golden(name: str) -> str:
    return (GOLDEN / name).read_text(encoding="utf-8")


def test_cpus_of_two_kinds() -> None:
    isa = ("fp", "asimd", "evtstrm", "aes", "pmull", "sha1", "sha2", "crc32")
    parts = ("0x51:0x211", "0x51:0x211", "0x51:0x205", "0x51:0x205")
    name = "Qualcomm Technologies, Inc MSM8996"
    assert facts.parse_cpuinfo(golden("cpuinfo_galaxy_s7.txt")) == facts.CpuInfo(name, isa, 4, parts)


def test_cpus_of_an_old_kernel() -> None:
    found = facts.parse_cpuinfo(golden("cpuinfo_nexus_5.txt"))
    assert (found.core_count, found.parts) == (4, ("0x51:0x06f",))
    assert found.name == "Qualcomm MSM 8974 HAMMERHEAD (Flattened Device Tree)"
    assert "neon" in found.isa


def test_the_instruction_set_is_what_all_cores_have() -> None:
    cores = "processor: 0\nFeatures: fp asimd asimddp\n\nprocessor: 1\nFeatures: fp asimd\n"
    assert facts.parse_cpuinfo(cores).isa == ("fp", "asimd")


def test_memory() -> None:
    found = facts.parse_meminfo(golden("meminfo_shield.txt"))
    assert (found["MemTotal"], found["MemAvailable"]) == (2946, 1462)


def test_battery() -> None:
    assert facts.parse_battery(golden("battery.txt")) == facts.Battery(44.0, 28.0, 3872, True)


def test_battery_of_a_vendor_who_adds_a_log() -> None:
    log = "[log]\n08-11 18:34:14.721 level: 72, temperature: 345\n  level: 72\n  temperature: 345\n"
    assert facts.parse_battery(golden("battery.txt") + log) == facts.Battery(44.0, 28.0, 3872, True)


def test_temperatures() -> None:
    found = facts.parse_thermal(golden("thermal_shield.txt"))
    assert [(sensor.name, sensor.kind) for sensor in found.sensors] == [
        ("CPU0", "cpu"),
        ("CPU1", "cpu"),
        ("GPU", "gpu"),
    ]
    assert found.hottest_c("cpu") == pytest.approx(62.5, abs=0.001)
    assert (found.hottest_c("skin"), found.status, found.throttled) == (None, None, None)


def test_a_device_that_slows_down_and_its_temperatures_of_now() -> None:
    found = facts.parse_thermal(THERMAL_STATUS)
    assert (found.status, found.throttled) == ("moderate", True)
    assert {sensor.name: sensor.temperature_c for sensor in found.sensors} == {
        "BIG": 41.5,
        "neutral, therm": 33.9,
        "skin": 38.0,
    }
    cached = facts.parse_thermal(THERMAL_STATUS.partition("HAL Ready")[0].replace("Status: 2", "Status: 0"))
    assert (cached.hottest_c("cpu"), cached.throttled) == (99.0, False)


def test_properties() -> None:
    text = "[ro.product.model]: [Pixel 7]\n[ro.build.note]: [two\nlines]\n[empty]: []\n[list]: [[a], [b]]\n"
    assert facts.parse_properties(text) == {
        "ro.product.model": "Pixel 7",
        "ro.build.note": "two\nlines",
        "empty": "",
        "list": "[a], [b]",
    }


def test_clocks() -> None:
    text = "\n".join(
        f"/sys/devices/system/cpu/cpu{i}/cpufreq/scaling_cur_freq:{khz}" for i, khz in ((0, 300000), (10, 2841600))
    )
    assert facts.parse_clocks(text) == {0: 300, 10: 2841}


def test_zones_in_thousandths_in_whole_degrees_and_switched_off() -> None:
    values = (("cpu-0-0", 36100), ("cpu-0-0", 41200), ("battery", 29), ("modem", -274000), ("vbat", 4200000))
    lines = [f"/sys/class/thermal/thermal_zone{i}/type:{kind}" for i, (kind, _) in enumerate(values)]
    lines += [f"/sys/class/thermal/thermal_zone{i}/temp:{value}" for i, (_, value) in enumerate(values)]
    assert facts.parse_zones("\n".join(lines)) == {"cpu-0-0": 41.2, "battery": 29.0}


PARSERS: list[Callable[[str], Any]] = [
    *(facts.parse_cpuinfo, facts.parse_meminfo, facts.parse_battery, facts.parse_thermal),
    *(facts.parse_properties, facts.parse_clocks, facts.parse_zones),
]


@pytest.mark.parametrize("parse", PARSERS)
@given(text=st.one_of(st.text(), st.text("processr: 0\n[]{}=.,-kB/%Tmvaluy")))
def test_no_text_breaks_a_parser(parse: Callable[[str], Any], text: str) -> None:
    parse(text)


@pytest.mark.parametrize("parse", PARSERS)
def test_no_parser_takes_a_refusal_for_values(parse: Callable[[str], Any]) -> None:
    nothing = parse("")
    for said in ("Permission denied", "Can't find service: thermalservice", "/system/bin/sh: dumpsys: not found"):
        assert parse(said) == nothing
