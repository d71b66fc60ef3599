"""Energy where the board can tell: a counter (RAPL), or a power rail that is read over and over (INA3221, a battery's gauge).

Sources: Linux, Documentation/power/powercap/powercap.rst (energy_uj, max_energy_range_uj), Documentation/hwmon/ina3221.rst and
sysfs-interface.rst (inN_input mV, currN_input mA, powerN_input uW); NVIDIA's Jetson Linux guide on the INA3221 iio nodes of 32.x
(in_power0_input mW); Linux, Documentation/ABI/testing/sysfs-class-power (power_now, uW). Standard library, Python 3.6.
"""

import re
import threading
import time

import place

RAPL = "/sys/class/powercap"
HWMON = "/sys/class/hwmon"
IIO = "/sys/bus/i2c/drivers/ina3221x"  # JetPack 4: .../6-0040/iio:device0/in_power0_input
SUPPLY = "/sys/class/power_supply"
TOTALS = ("VDD_IN", "POM_5V_IN", "VDD_INPUT", "5V_IN")  # the rail that feeds the whole board
EVERY_S = 0.02


def number(path):
    text = place.read(path)
    return int(text) if text and re.match(r"-?\d+$", text) else None


def rapl_package():
    """(name, path of the counter in uJ, its range) of the first processor package that may be read."""
    for entry in place.names(RAPL):
        folder = "%s/%s" % (RAPL, entry)
        name = place.read(folder + "/name") or ""
        if name.startswith("package") and number(folder + "/energy_uj") is not None:
            return name, folder + "/energy_uj", number(folder + "/max_energy_range_uj") or 0
    return None


def rail():
    """(name, function giving W now) of the board's input rail or battery, or None."""
    for found in (_iio_rail(), _hwmon_rail(), _battery()):
        if found is not None and found[1]() is not None:
            return found
    return None


def _iio_rail():
    rails = []
    for chip in place.names(IIO):
        for device in place.names("%s/%s" % (IIO, chip)):
            folder = "%s/%s/%s" % (IIO, chip, device)
            for i in range(3):
                name = place.read("%s/rail_name_%d" % (folder, i))
                if name:
                    rails.append((name, "%s/in_power%d_input" % (folder, i)))
    return _chosen([(name, _scaled(path, 1e-3)) for name, path in rails])


def _hwmon_rail():
    rails = []
    for entry in place.names(HWMON):
        folder = "%s/%s" % (HWMON, entry)
        if not (place.read(folder + "/name") or "").startswith("ina"):
            continue
        for i in range(1, 4):
            name = place.read("%s/in%d_label" % (folder, i)) or place.read("%s/power%d_label" % (folder, i))
            if number("%s/power%d_input" % (folder, i)) is not None:
                rails.append((name or "power%d" % i, _scaled("%s/power%d_input" % (folder, i), 1e-6)))
            elif number("%s/curr%d_input" % (folder, i)) is not None:
                rails.append((name or "in%d" % i, _product(folder, i)))
    return _chosen(rails)


def _battery():
    for entry in place.names(SUPPLY):
        folder = "%s/%s" % (SUPPLY, entry)
        if place.read(folder + "/type") == "Battery" and place.read(folder + "/status") == "Discharging":
            return "battery " + entry, _scaled(folder + "/power_now", 1e-6)
    return None


def _chosen(rails):
    """The board's input before any other rail: a part's rail would leave out the memory."""
    for wanted in TOTALS:
        for name, read in rails:
            if wanted in name.upper():
                return name, read
    return rails[0] if rails else None


def _scaled(path, factor):
    def watts():
        value = number(path)
        return None if value is None else abs(value) * factor

    return watts


def _product(folder, i):
    def watts():
        mv, ma = number("%s/in%d_input" % (folder, i)), number("%s/curr%d_input" % (folder, i))
        return None if mv is None or ma is None else abs(mv * ma) * 1e-6

    return watts


class Meter:
    """Of the first counter or rail that can be read; `source` says which, None: nothing can."""

    def __init__(self):
        self.package, self.rail = rapl_package(), None
        if self.package is None:
            self.rail = rail()
        name = self.package or self.rail
        self.source = name[0] if name else None

    def start(self):
        self.began = time.perf_counter()
        if self.package is not None:
            self.before = number(self.package[1])
        elif self.rail is not None:
            self.readings, self.done = [], threading.Event()  # (when, W)
            self.thread = threading.Thread(target=self._watch)
            self.thread.start()

    def _watch(self):
        while not self.done.is_set():
            now = self.rail[1]()
            if now is not None:
                self.readings.append((time.perf_counter(), now))
            self.done.wait(EVERY_S)

    def stop(self, latest_s=None):
        """mJ since the start, or None where it can't be told. `latest_s`: only of so much before now, which needs a rail: a counter
        was not looked at in between."""
        now = time.perf_counter()
        if self.rail is not None:
            self.done.set()
            self.thread.join()
            since = self.began if latest_s is None else max(self.began, now - latest_s)
            watts = [watt for when, watt in self.readings if when >= since]
            return sum(watts) / len(watts) * (now - since) * 1e3 if watts else None
        if self.package is None or latest_s is not None:
            return None
        after = number(self.package[1])
        if after is None or self.before is None:
            return None
        used = after - self.before
        return (used if used >= 0 else used + self.package[2]) / 1e3
