"""What a machine is and how it is right now. Standard library, Python 3.6; whatever can't be read is null.

Of a device without Python, `place.VIA` finds out the same.
"""

import os
import platform
import re
import shutil
import sys

import place

THERMAL = "/sys/class/thermal"
CPU = "/sys/devices/system/cpu"


def probe(versions, folder):
    """`folder`: where the agent keeps its files, for the space that is left there."""
    if place.VIA is not None:
        return place.VIA.probe(versions, folder)
    info = cpu_info()
    return {
        "machine": platform.machine(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "cpu_name": info["name"],
        "isa": info["isa"],
        "cores": os.cpu_count(),
        "ram_mib": ram_mib(),
        "disk_free_mib": disk_free_mib(folder),
        "temperature_c": temperature_c(),
        "governor": place.read(CPU + "/cpu0/cpufreq/scaling_governor"),
        "clock_mhz": clock_mhz(),
        "load": load(),
        "model": board(),
        "power_mode": power_mode(),
        "tegrastats": place.first_line(["tegrastats", "--interval", "200"]),
        "battery": None,
        "runtime_versions": versions,
    }


def board():
    """What the board calls itself in its device tree."""
    found = place.read("/proc/device-tree/model")
    return found.strip("\0") if found else None


def cpu_info():
    """An emulated ARM machine shows its host's /proc/cpuinfo: what is written there the x86 way is not its own."""
    name = platform.processor() or None
    isa = []
    arm = platform.machine().startswith(("aarch64", "arm"))
    flags, names = ("Features", ("Hardware", "Model")) if arm else ("flags", ("model name",))
    for line in (place.read("/proc/cpuinfo") or "").splitlines():
        key, _, value = line.partition(":")
        if key.strip() in names:
            name = value.strip()
        if key.strip() == flags:
            isa = value.lower().split()
    return {"name": name, "isa": isa}


def ram_mib():
    for line in (place.read("/proc/meminfo") or "").splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) // 1024
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
    except (AttributeError, ValueError, OSError):
        return None


def disk_free_mib(folder):
    try:
        return shutil.disk_usage(folder).free // 2**20
    except OSError:
        return None


def clock_mhz():
    """Of the fastest core, now."""
    if place.VIA is not None:
        return place.VIA.clock_mhz()
    found = []
    for name in place.names(CPU):
        if re.match(r"cpu\d+$", name):
            khz = place.read("%s/%s/cpufreq/scaling_cur_freq" % (CPU, name))
            if khz and khz.isdigit():
                found.append(int(khz) // 1000)
    return max(found) if found else None


def temperature_c():
    """The hottest thermal zone, or null."""
    if place.VIA is not None:
        return place.VIA.temperature_c()
    found = []
    for zone in place.names(THERMAL):
        value = place.read("%s/%s/temp" % (THERMAL, zone))
        if value and re.match(r"-?\d+$", value):
            found.append(int(value) / 1000)
    return max(found) if found else None


def load():
    if place.VIA is not None:
        return place.VIA.load()
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def power_mode():
    """What `nvpmodel -q` says on a Jetson: {"name": "MAXN", "number": 0}."""
    code, out, _ = place.run(["nvpmodel", "-q"], 5.0)
    if code != 0:
        return None
    name = re.search(r"NV Power Mode:\s*(\S+)", out)
    number = re.search(r"^\s*(\d+)\s*$", out, re.MULTILINE)
    return {"name": name.group(1) if name else None, "number": int(number.group(1)) if number else None}


def peak_rss_mib():
    """Of this process; Linux's ru_maxrss would count the parent's memory from before exec."""
    if place.VIA is not None:
        return None
    for line in (place.read("/proc/self/status") or "").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 1024
