"""Measures this model on the device that it was built for:  python3 on_device.py > measured.json

It loads the model in the device's runtime (TensorRT builds an engine first, which takes minutes on a small board), checks its outputs
against golden ones, times it, and prints the measurement as JSON. On the computer that built it, `edgenas report --add measured.json
BUILD_DIR` takes it in. Standard library (and the runtime), Python 3.6.

    --precision P    another one than the model was chosen for: fp32, fp16 or int8
    --model FILE     another file of this folder
    --seconds S      how long to measure (default 5)
"""

import argparse
import array
import ast
import hashlib
import json
import os
import platform
import struct
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "on_device"))

import agent  # noqa: E402
import part  # noqa: E402
import probes  # noqa: E402

# largest difference from the golden outputs, as a share of the largest of them; INT8 is judged by the classes alone
TOLERANCE = {"fp32": 1e-3, "fp16": 0.03}


def main():
    about = json.loads(text("on_device/about.json"))
    options = arguments(about)
    versions = part.versions()
    if about["runtime"] not in versions:
        fail("%s is not here. %s" % (about["runtime"], about["missing"]))
    model = {
        "path": os.path.join(HERE, options.model),
        "options": {"threads": about["threads"], "precision": options.precision},
    }
    if not os.path.exists(model["path"]):
        fail("there is no file %s in %s" % (options.model, HERE))
    say("%s %s on %s" % (about["runtime"], versions[about["runtime"]], probes.board() or platform.machine()))
    try:
        say("loading the model, and building its engine if the runtime has one ...")
        error, agreed, golden = check_golden(model, options.precision)
        say("outputs differ by up to %.3g from the golden ones, classes agree in %d of %d" % (error, agreed, golden))
        say("measuring for about %g s ..." % options.seconds)
        found = agent.bench(
            {
                "models": [model],
                "reference": None,
                "warmup_s": 0.5,
                "min_count": 200,
                "max_count": 100000,
                "max_s": options.seconds,
                "chunk": 25,
            }
        )
        used = agent.energy({"model": model, "seconds": 2.0, "chunk": 25})
    except (OSError, RuntimeError, ValueError) as problem:
        fail(str(problem))
    samples = sorted(found["samples_ns"][0])
    print(
        json.dumps(
            {
                "schema": 1,
                "kind": "edgenas benchmark",
                "model": options.model,
                "sha256": sha256(model["path"]),
                "device": about["device"],
                "target": platform.node() or "the device itself",
                "runtime": about["runtime"],
                "runtime_version": versions[about["runtime"]],
                "precision": options.precision,
                "threads": about["threads"],
                "measured": {
                    "p50_ms": percentile(samples, 50),
                    "p90_ms": percentile(samples, 90),
                    "p99_ms": percentile(samples, 99),
                    "cpu_ms": percentile(sorted(found["cpu_ns"][0]), 50),
                    "process_peak_mib": found["peak_rss_mib"],
                    "energy_mj": used["energy_mj"],
                    "energy_source": used["source"],
                    "n": len(samples),
                    "provenance": "measured",
                    "temperature_c": found["temperature_c"],
                    "clock_mhz": found["clock_mhz"],
                    "warnings": [],
                },
                "golden_max_abs_error": error,
                "environment": probes.probe(versions, HERE),
            },
            indent=2,
        )
    )


def arguments(about):
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--precision", default=about["precision"], choices=["fp32", "fp16", "int8"])
    parser.add_argument("--model", default=about["model"])
    parser.add_argument("--seconds", type=float, default=5.0)
    return parser.parse_args()


def check_golden(model, precision):
    """(largest difference, rows whose largest output is the same, rows); ends here if they differ too much."""
    inputs, expected = (os.path.join(HERE, "golden", name) for name in ("inputs.npy", "outputs.npy"))
    with tempfile.TemporaryDirectory() as folder:
        written = os.path.join(folder, "outputs.npy")
        part.infer(model["path"], inputs, written, model["options"])
        shape, found = read_npy(written)
    golden_shape, golden = read_npy(expected)
    if shape != golden_shape:
        fail("the outputs are of shape %s, the golden ones of %s" % (shape, golden_shape))
    error = max(abs(a - b) for a, b in zip(found, golden))
    classes = shape[-1]
    rows = [(found[i : i + classes], golden[i : i + classes]) for i in range(0, len(found), classes)]
    agreed = sum(a.index(max(a)) == b.index(max(b)) for a, b in rows)
    allowed = TOLERANCE.get(precision)
    if allowed is not None and not error <= allowed * max(1.0, max(abs(b) for b in golden)):
        fail("the outputs differ by up to %.3g from the golden ones: this runtime computes something else" % error)
    if allowed is None and agreed < len(rows) / 2:
        fail("only %d of %d classes are the golden ones: this runtime computes something else" % (agreed, len(rows)))
    return error, agreed, len(rows)


def read_npy(path):
    """(shape, values) of little-endian float32 in C order."""
    with open(path, "rb") as file:
        data = file.read()
    length = struct.unpack("<H", data[8:10])[0] if data[6:7] == b"\x01" else struct.unpack("<I", data[8:12])[0]
    start = (10 if data[6:7] == b"\x01" else 12) + length
    header = ast.literal_eval(data[start - length : start].decode("latin-1"))
    values = array.array("f")
    values.frombytes(data[start:])
    if sys.byteorder == "big":
        values.byteswap()
    return tuple(header["shape"]), list(values)


def percentile(ordered_ns, percent):
    """In ms, linear between samples."""
    at = (len(ordered_ns) - 1) * percent / 100
    low = int(at)
    high = min(low + 1, len(ordered_ns) - 1)
    return (ordered_ns[low] + (ordered_ns[high] - ordered_ns[low]) * (at - low)) / 1e6


def sha256(path):
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def text(name):
    with open(os.path.join(HERE, name)) as file:
        return file.read()


def say(line):
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def fail(sentence):
    say("error: " + sentence)
    sys.exit(1)


if __name__ == "__main__":
    main()
