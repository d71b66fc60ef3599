"""The command line as a user meets it: real processes, their exit codes, and what goes to which stream.

Importing takes most of such a process's time, so all commands are started together, a few at a time, and each test looks at
one of them.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgenas.onnxio.random_weights import random_weights
from edgenas.onnxio.write import to_onnx
from edgenas.spaces.mobile import for_data
from edgenas.store import Store

pytestmark = pytest.mark.heavy

ROOT = Path(__file__).resolve().parents[1]
AT_ONCE = 3
Run = subprocess.CompletedProcess[str]

GOOD = {
    "help": "--help",
    "build help": "build --help",
    "search help": "search --help",
    "version": "--version",
    "devices": "devices",
    "devices host": "devices host",
    "devices json": "devices --json",
    "device json": "devices jetson-nano --json",
}
# Each with what the first line has to say, and what the rest has to offer as the next thing to do. Those that get as far as
# measuring have a folder of their own, since one that is building in the default folder refuses the others.
BAD = {
    "no such device": ("build --device nosuch", r"no device called 'nosuch'", r"host, jetson-nano, .*raspberry-pi-4"),
    "a name nearly right": ("build --device hots", r"no device called 'hots'", r"Did you mean 'host'\?"),
    "no such data": (
        "build --device host --data /nowhere",
        r"/nowhere`: no such folder",
        r"one folder of images per class",
    ),
    "impossible latency": (
        "build --device host --data photos --effort quick --latency-ms 0.000001 --out too-fast",
        r"meets --latency-ms 1e-06: the fastest one measured takes \d[\d.e-]* ms \((fp32|int8)\) on host",
        r"Ask for at least --latency-ms \d[\d.e-]*",
    ),
    "latency is no number": ("build --device host --latency-ms abc", r"number such as 0\.5, but got 'abc'", r"--help"),
    "no such strategy": (
        "search --device host --strategy grid",
        r"'grid' is not one of 'aging', .*'random'",
        r"--help",
    ),
    "latency below zero": ("build --device host --latency-ms -1", r"number above zero, but got '-1'", r"--help"),
    "latency is not finite": ("build --device host --latency-ms nan", r"number above zero, but got 'nan'", r"--help"),
    "empty folder": ("build --device host --data empty", r"expected class folders", r"one folder per class"),
    "one class": ("build --device host --data one-class", r"only one class, 'cats'", r"one folder per class"),
    "out is a file": (
        "build --device host --data photos --out a-file",
        r"--out a-file can't be made",
        r"Name a folder",
    ),
    "out can't be made": (
        "build --device host --data photos --out a-file/inside",
        r"--out a-file/inside can't be made: Not a directory",
        r"Name a folder",
    ),
    "out is in use": ("build --device host --data photos --out locked", r"is building in locked", r"another --out"),
    "an impossible latency of a search": (
        "search --device host --data photos --effort quick --latency-ms 0.000001 --out too-fast-to-search",
        r"meets --latency-ms 1e-06: the fastest one measured takes \d[\d.e-]* ms \((fp32|int8)\) on host",
        r"Ask for at least --latency-ms \d[\d.e-]*",
    ),
    "a search without a device": ("search", r"Missing option '--device'", r"--help"),
    "a search of no such space": (
        "search --device host --data photos --space x",
        r"no space that can be built is called 'x'",
        r"mobile",
    ),
    "report without a result": ("report empty", r"empty/result\.json", r"finished `edgenas build`"),
    "report on nothing": ("report nowhere", r"nowhere/result\.json", r"finished `edgenas build`"),
    "devices of no such name": ("devices nosuch", r"no device called 'nosuch'", r"host, jetson-nano, .*raspberry-pi-4"),
    "a board without a target": ("profile --device jetson-nano", r"no --target to measure it on", r"--device host"),
    "a target of no possible port": (
        "profile --device jetson-nano --target ssh://me@board:99999 --data nowhere",
        r"'ssh://me@board:99999' is not an address: Port out of range",
        r"ssh://user@host:2222",
    ),
    "no such space, before images are looked at": (
        "build --device host --data nowhere --space Mobil",
        r"no space that can be built is called 'Mobil'",
        r"Did you mean 'mobile'\?",
    ),
    "bench of a model on data that isn't there": (
        "bench model.onnx --device host --data nowhere",
        r"nowhere",
        r"",
    ),
    "a prediction in a precision that the device lacks": (
        "predict model.onnx --device coral-edge-tpu",
        r"edgetpu on 'coral-edge-tpu' has no fp32",
        r"--precision: int8",
    ),
    "a prediction of what nothing is known of": (
        "predict model.onnx --device raspberry-pi-4 --precision fp32 --threads 4",
        r"no latency table and no calibration onnxruntime-fp32-t4; it has onnxruntime-fp32-t1",
        r"edgenas calibrate --device raspberry-pi-4 --runtime onnxruntime --precision fp32 --threads 4 --measured",
    ),
    "a device that can only be predicted for": (
        "build --device coral-edge-tpu --target local",
        r"nothing can be measured on device 'coral-edge-tpu': .*TensorFlow Lite",
        r"edgenas calibrate --device coral-edge-tpu",
    ),
    "a profile of such a device": (
        "profile --device coral-edge-tpu",
        r"nothing can be measured on device 'coral-edge-tpu'",
        r"edgenas calibrate",
    ),
    "a new device with a bad name": ("devices --new My_Board", r"'My_Board' can't be a device's id", r"my-board-2"),
    "MACs that nothing has": (
        "build --device host --data photos --effort quick --macs-m 0.0001 --params-m 0.00001 --out too-small",
        r"the number of MACs is at least .* \(--macs-m 0\.0001\); the number of parameters is at least",
        r"Ask for at least --macs-m \S+ --params-m",
    ),
    "no such space": (
        "build --device host --data photos --space x",
        r"no space that can be built is called 'x'",
        r"mobile",
    ),
    "a space with an empty choice": (
        "build --device host --data photos --space empty-choice.yaml",
        r"empty-choice\.yaml, line 2, heads: the choice has no options",
        r"Give it at least one",
    ),
    "a space of widths that the device doesn't like": (
        "search --device x86-64-avx2 --target local --data photos --space odd-widths.yaml",
        r"odd-widths\.yaml, line 2, stem_widths\.1: 20 channels .* multiples of 16",
        r"Take 16 or 32",
    ),
    "a model that can't be traced": (
        "build --device host --data photos --effort quick --model tests.own_nets:branching",
        r"can't be traced at own_nets\.py:\d+",
        r"must not depend on the values",
    ),
    "a budget of nothing": ("build --device host --size-mib 0", r"expected a number above zero", r"--help"),
    "energy of a device that isn't there": (
        "build --device raspberry-pi-4 --data photos --effort quick --energy-mj 1 --out no-energy-there",
        r"--energy-mj needs measured energy, and device 'raspberry-pi-4' has none: there is no target",
        r"Name one \(--target",
    ),
    # without a counter there is no data, and with one it is more than that
    "energy that nothing tells or meets": (
        "build --device host --data photos --effort quick --energy-mj 1e-9 --out no-energy",
        r"--energy-mj needs measured energy, and device 'host' has no|no network of the space meets --energy-mj 1e-09",
        r"Leave --energy-mj out|Ask for at least --energy-mj \d",
    ),
    "a budget for no device in particular": (
        "build --device host --device raspberry-pi-4 --latency-ms 0.1",
        r"--latency-ms 0\.1 doesn't say for which of the 2 devices it is",
        r"--latency-ms host=MS --latency-ms raspberry-pi-4=MS",
    ),
    "a second device without a budget": (
        "build --device host --device raspberry-pi-4 --latency-ms host=0.1",
        r"device 'raspberry-pi-4' has no latency budget",
        r"--latency-ms raspberry-pi-4=MS",
    ),
    "a budget for another device": (
        "build --device host --latency-ms jetson-nano=3",
        r"--latency-ms jetson-nano=3 is for a device that is not one of those asked for",
        r"Those are: host\.",
    ),
    "a device twice": (
        "build --device host --device host --latency-ms host=1",
        r"--device host is given twice",
        r"Give each device once",
    ),
    "two budgets for a device": (
        "build --device host --latency-ms host=1 --latency-ms host=2",
        r"--latency-ms is given twice for device 'host': 1 and 2",
        r"Keep one",
    ),
    "a target for no device in particular": (
        "build --device host --device raspberry-pi-4 --target local --latency-ms host=1 --latency-ms raspberry-pi-4=9",
        r"--target local doesn't say for which of the 2 devices it is",
        r"--target host=T --target raspberry-pi-4=T",
    ),
    "threads for several devices": (
        "build --device host --device raspberry-pi-4 --threads 2 --latency-ms host=1 --latency-ms raspberry-pi-4=9",
        r"--threads is for one device, and there are 2",
        r"edgenas devices --new host",
    ),
    "a latency of a device that is no number": (
        "build --device host --latency-ms host=fast",
        r"number such as 0\.5, but got 'fast'",
        r"--help",
    ),
    "a second device that is too slow": (
        "build --device host --device raspberry-pi-4 --data photos --effort quick --out too-slow-there "
        "--latency-ms host=5 --latency-ms raspberry-pi-4=0.01",
        r"meets --latency-ms raspberry-pi-4=0\.01: the fastest one predicted takes \d[\d.]* ms \(fp32\) on raspberry-pi-4",
        r"Ask for at least --latency-ms raspberry-pi-4=\d",
    ),
    "budgets that contradict each other": (
        "build --device raspberry-pi-4 --data photos --effort quick --latency-ms 2.5 --params-m 0.0022 --out contradictory",
        r"meets --params-m 0\.0022, --latency-ms 2\.5 together: where the others are met, the number of parameters is",
        r"Give more room: --params-m \S+ or --latency-ms \d",
    ),
    "no such target": ("build --device host --data photos --target x", r"no target understands 'x'", r"local, ssh:"),
    "no device": ("build", r"Missing option '--device'", r"--help"),
    "no such objective": ("build --device host --objective fun", r"'fun' is not one of 'accuracy', 'loss'", r"--help"),
    "no such effort": ("build --device host --effort little", r"'little' is not one of 'quick'", r"--help"),
    "no such command": ("biuld", r"No such command 'biuld'", r"--help"),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Run]]:
    folder = tmp_path_factory.mktemp("cli")
    write_images(folder / "photos", ("cats", "dogs"))
    write_images(folder / "one-class", ("cats",))
    (folder / "empty").mkdir()
    (folder / "a-file").write_text("not a folder")
    (folder / "empty-choice.yaml").write_text("space: mobile\nheads: []\n")
    space = for_data(28, 3, 2)
    network = space.network(space.largest())
    (folder / "model.onnx").write_bytes(to_onnx(network, random_weights(network, 0)).SerializeToString())
    (folder / "odd-widths.yaml").write_text("space: mobile\nstem_widths: [16, 20]\n")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}

    def run(arguments: str) -> Run:
        return subprocess.run(
            [sys.executable, "-m", "edgenas.cli", *arguments.split()],
            capture_output=True,
            text=True,
            cwd=folder,
            env=environment,
            check=False,
            timeout=120,
        )

    commands = GOOD | {name: arguments for name, (arguments, _, _) in BAD.items()}
    store = Store(folder / "locked")  # this process builds there, as far as any other can tell
    try:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            yield dict(zip(commands, pool.map(run, commands.values()), strict=True))
    finally:
        store.close()


def write_images(root: Path, classes: tuple[str, ...]) -> None:
    rng = np.random.default_rng(0)
    for label in classes:
        (root / label).mkdir(parents=True)
        for i in range(6):
            Image.fromarray(rng.integers(0, 256, (30, 28, 3), np.uint8)).save(root / label / f"{i}.png")


@pytest.mark.parametrize("name", GOOD)
def test_what_is_asked_for_goes_to_standard_output(runs: dict[str, Run], name: str) -> None:
    run = runs[name]
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip()
    assert run.stderr == ""


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_sentence_and_what_to_do(runs: dict[str, Run], name: str) -> None:
    run, (_, sentence, advice) = runs[name], BAD[name]
    assert run.returncode == 2, run.stderr
    assert run.stdout == ""
    assert "Traceback" not in run.stderr
    lines = [line for line in run.stderr.splitlines() if not re.match(r"  (Reading|Checking|Measuring|Budget:) ", line)]
    (said,) = (line for line in lines if re.match(r"error: |Error: ", line))
    assert re.search(sentence, said)
    assert re.search(advice, " ".join(line for line in lines if line != said))
    assert len(lines) <= 4


def test_help_names_every_command_and_option(runs: dict[str, Run]) -> None:
    for command in ("build", "search", "devices", "profile", "report"):
        assert re.search(rf"^  {command} +[A-Z]", runs["help"].stdout, re.MULTILINE)
    options = (
        "--device --target --data --latency-ms --max-accuracy-drop --strategy --max-minutes --effort --threads --seed "
        "--out --json"
    )
    for option in options.split():
        assert option in runs["build help"].stdout
        assert (option in runs["search help"].stdout) == (option != "--max-accuracy-drop")


def test_devices_are_listed_with_their_fast_precisions(runs: dict[str, Run]) -> None:
    rows = {line.split()[0]: line for line in runs["devices"].stdout.splitlines()}
    assert {"ID", "host", "jetson-nano", "raspberry-pi-4"} <= rows.keys()
    assert "tensorrt (fp32 fp16)" in rows["jetson-nano"]
    assert "none yet" in rows["host"]


def test_one_device_is_shown_with_its_sources(runs: dict[str, Run]) -> None:
    shown = runs["devices host"].stdout
    assert shown.startswith("host: This machine")
    assert "onnxruntime" in shown
    assert re.search(r"int8: fast.*\[.+\]", shown)


def test_json_is_one_document(runs: dict[str, Run]) -> None:
    listed = json.loads(runs["devices json"].stdout)
    assert {"host", "jetson-nano", "raspberry-pi-4"} <= {entry["id"] for entry in listed}
    assert json.loads(runs["device json"].stdout) in listed


def test_the_refusal_of_a_budget_names_one_that_is_above_what_was_measured(runs: dict[str, Run]) -> None:
    said = runs["impossible latency"].stderr
    measured = re.search(r"the fastest one measured takes ([\d.e-]+) ms", said)
    offered = re.search(r"Ask for at least --latency-ms ([\d.e-]+)", said)
    assert measured is not None
    assert offered is not None
    assert 0 < float(measured[1]) < float(offered[1]) < 2 * float(measured[1])
