"""NVIDIA's trtexec on a device: where it lies, its command lines by version, and what its logs and files say. Pure functions but
`find`; standard library only, Python 3.6 syntax.

Flags and formats by version are read from trtexec's own sources: github.com/NVIDIA/TensorRT, samples/common/sampleOptions.cpp,
sampleReporting.cpp and sampleInference.cpp of the branches release/8.0, 8.2, 8.4, 8.5, 8.6, 10.0, 10.3, 10.13 and 11.0. `VERIFIED`
lists those whose formats were held against outputs that users published; the others are as the sources have it.
"""

import json
import os
import re
import shutil

FOLDERS = (
    "/usr/src/tensorrt/bin",  # JetPack and NVIDIA's Debian packages
    "/usr/local/tensorrt/bin",
    "/opt/tensorrt/bin",  # NVIDIA's containers
    "/workspace/tensorrt/bin",
    "/usr/local/TensorRT/bin",
)
VERIFIED = {
    "console": ((8, 2), (8, 6)),
    "failures": ((8, 0), (8, 2), (8, 5), (8, 6), (10, 0)),
    "times": ((8, 4),),
    "profile": ((8, 4),),
    "layer_info": ((8, 4),),
    "outputs": (),
}
WARM_UP_MS = 200
SPARE_RUNS = 5  # one that starts in the warm-up and ends after it is neither skipped nor counted
PRECISIONS = {"fp32": [], "fp16": ["--fp16"], "int8": ["--int8", "--fp16"], "best": ["--best"]}
STRONGLY_TYPED = (11,)  # from there on the file's own types decide: --fp16, --int8, --best and --calib are gone


def find(folders=FOLDERS):
    """The path of trtexec: the first on PATH, else in one of `folders`; None if there is none."""
    on_path = shutil.which("trtexec")
    if on_path:
        return on_path
    for folder in folders:
        path = os.path.join(folder, "trtexec")
        if os.path.isfile(path) and os.access(path, os.X_OK):
            return path
    return None


def version(text):
    """(8, 2, 1) out of the banner `[TensorRT v8201]` or the line `TensorRT version: 8.2.1`; None if neither is there.

    The banner's number is major * 1000 + minor * 100 + patch up to 8.x and 9.x, from 10.0 on major * 10000 + minor * 100 + patch.
    """
    found = re.search(r"TensorRT version: (\d+)\.(\d+)\.(\d+)", text)
    if found:
        return tuple(int(part) for part in found.groups())
    found = re.search(r"\[TensorRT v(\d{4,6})\]", text) or re.search(r"TensorRT version: (\d{4,6})\b", text)
    if not found:
        return None
    number = int(found.group(1))
    major = 10000 if number >= 100000 else 1000
    return number // major, number % major // 100, number % 100


def build_flags(version, options):
    """What of a build decides the engine, without the files' paths. `options`: {"precision": one of PRECISIONS,
    "workspace_mib": a limit or None}. INT8 may fall back to FP16, layer by layer, as everybody deploys it.

    Raises ValueError for what this version can't do."""
    precision = options.get("precision") or "fp32"
    if precision not in PRECISIONS:
        raise ValueError("precision %r is none of %s" % (precision, ", ".join(sorted(PRECISIONS))))
    flags = list(PRECISIONS[precision])
    if version >= STRONGLY_TYPED:
        if precision not in ("fp32", "int8"):
            raise ValueError(
                "TensorRT %d takes the precision from the ONNX file: give it one with %s tensors"
                % (version[0], precision)
            )
        flags = []
    workspace = options.get("workspace_mib")
    if workspace:
        flags.append("--workspace=%d" % workspace if version < (8, 4) else "--memPoolSize=workspace:%d" % workspace)
    if version >= (8, 2):
        flags.append("--profilingVerbosity=detailed")  # shapes and kinds of layers, at no run time
    return flags


def build_command(exe, version, onnx, engine, options):
    """Build `engine` out of `onnx`, without timing it. Further `options`: "calibration_cache" and "timing_cache", paths or None."""
    command = [exe, "--onnx=" + onnx, "--saveEngine=" + engine] + build_flags(version, options)
    if options.get("calibration_cache"):
        if version >= STRONGLY_TYPED:
            raise ValueError("TensorRT %d reads no calibration cache: give it an ONNX file with Q/DQ" % version[0])
        command.append("--calib=" + options["calibration_cache"])
    if options.get("timing_cache"):
        command.append("--timingCacheFile=" + options["timing_cache"])
    command.append("--buildOnly" if version < (8, 6) else "--skipInference")
    return command


def bench_command(exe, version, onnx, engine, count, times, warmup_ms=WARM_UP_MS):
    """`count` runs and a few more after the warm-up, each one's times written to the file `times`."""
    return _run(exe, version, onnx, engine, count + SPARE_RUNS, warmup_ms) + ["--exportTimes=" + times]


def profile_command(exe, version, onnx, engine, count, times, profile, layer_info=None, warmup_ms=WARM_UP_MS):
    """As `bench_command`, and after it as many runs with the profiler, which would slow the first."""
    command = bench_command(exe, version, onnx, engine, count, times, warmup_ms)
    command += ["--separateProfileRun", "--exportProfile=" + profile]
    if layer_info and version >= (8, 2):
        command.append("--exportLayerInfo=" + layer_info)
    return command


def infer_command(exe, version, onnx, engine, inputs, outputs):
    """One run on the raw files `inputs` {tensor: file}, its output tensors written to the file `outputs`.

    trtexec splits at commas, and name from file at the last colon. Raises ValueError for what that would cut."""
    for name, file in inputs.items():
        if "," in name + file or ":" in file:
            raise ValueError("trtexec can't read the input %r from %r: a comma or colon cuts it" % (name, file))
    given = ",".join("%s:%s" % pair for pair in sorted(inputs.items()))
    return _run(exe, version, onnx, engine, 1, 0) + ["--loadInputs=" + given, "--exportOutput=" + outputs]


def _run(exe, version, onnx, engine, iterations, warmup_ms):
    """Up to 8.6 an engine alone is taken for one of implicit batches and enqueued as such, with a warning at every run; a model beside
    it, which is not read again, says that it is not."""
    command = [exe, "--loadEngine=" + engine, "--iterations=%d" % iterations, "--duration=0", "--warmUp=%d" % warmup_ms]
    if version < (10,):
        command.append("--onnx=" + onnx)
    if version >= (11,):  # which spins anyway, and else times a CUDA graph without the copies
        return command + ["--includeDataTransfers", "--noCudaGraph"]
    return command + ["--useSpinWait"]


def times(text, warmup_ms=WARM_UP_MS):
    """Of --exportTimes: one dict a run, in ms: startEnqMs ... latencyMs (h2dMs + computeMs + d2hMs); up to 8.2 endToEndMs as well.

    Up to 8.4 the file has the runs of the warm-up too; they are left out. Raises ValueError for what is not whole."""
    runs = [dict(run) for run in _json(text, "times")]
    for run in runs:
        if "latencyMs" not in run:
            run["latencyMs"] = run["h2dMs"] + run["computeMs"] + run["d2hMs"]
    for i, run in enumerate(runs):
        if run.get("startComputeMs", warmup_ms) >= warmup_ms:
            return runs[i:]
    return []


_LAYER = re.compile(
    r'"name"\s*:\s*"(.*)"\s*,\s*"timeMs"\s*:\s*([^,\s]+)\s*,\s*"averageMs"\s*:\s*([^,\s]+)'
    r'(?:\s*,\s*"medianMs"\s*:\s*([^,\s]+))?\s*,\s*"percentage"'
)


def layer_profile(text):
    """Of --exportProfile: (runs that were profiled, [{"name", "us": average, "median_us": from 8.4 on, else None}]).

    Read line by line: names are written as they are, quotes and backslashes unescaped."""
    counted = re.search(r'"count"\s*:\s*(\d+)', text)
    if not counted or not text.rstrip().endswith("]"):
        raise ValueError("a layer profile of trtexec breaks off: %r" % text[-80:])
    layers = []
    for name, _, average, median in _LAYER.findall(text):
        layers.append({"name": name, "us": _us(average), "median_us": _us(median) if median else None})
    return int(counted.group(1)), layers


def _us(ms):
    value = float(ms)
    return value * 1000 if value == value else 0.0  # a layer that never ran divides zero by zero


def layer_info(text):
    """Of --exportLayerInfo: [{"name", "op", "shapes": [first input, first output]}]; of an engine that was built without detailed
    verbosity only names are known. Several optimisation profiles repeat the layers; the first counts."""
    found = _json(text, "layer information")
    layers = []
    for layer in found.get("Layers", []):
        if isinstance(layer, str):
            layers.append({"name": layer, "op": "", "shapes": [[], []]})
            continue
        shapes = [
            tensors[0].get("Dimensions", []) if tensors else []
            for tensors in (layer.get("Inputs", []), layer.get("Outputs", []))
        ]
        layers.append({"name": layer.get("Name", ""), "op": layer.get("LayerType", ""), "shapes": shapes})
    return layers


_OUTPUT = re.compile(r'\{\s*"name"\s*:\s*"(.*)"\s*,\s*"dimensions"\s*:\s*"([^"]*)"\s*,\s*"values"\s*:\s*\[([^\]]*)\]')


def outputs(text):
    """Of --exportOutput: {tensor: (dimensions, values in row-major order)}. The values have six digits."""
    found = {}
    for name, dimensions, values in _OUTPUT.findall(text):
        shape = tuple(int(side) for side in dimensions.split("x")) if dimensions else ()
        try:
            numbers = [float(value) for value in values.split(",")] if values.strip() else []
        except ValueError:
            raise ValueError("the output %r of trtexec holds no numbers: %r" % (name, values.strip()[:40]))
        size = 1
        for side in shape:
            size *= side
        if len(numbers) != size:
            raise ValueError("the output %r of trtexec has %d values for %s" % (name, len(numbers), dimensions))
        found[name] = (shape, numbers)
    if not found:
        raise ValueError("trtexec wrote no output tensors: %r" % text[:80])
    return found


def summary(text):
    """Of a log: {"throughput_qps", "host_walltime_s", "gpu_compute_s", and for "latency_ms", "gpu_ms", "h2d_ms", "d2h_ms",
    "enqueue_ms", "end_to_end_ms": {"min", "max", "mean", "median", "p99", ...}}, each if the log has it. Milliseconds."""
    found = {}
    for key, label in _TOTALS.items():
        match = re.search(r"\] %s: ([-+.\deE]+) " % label, text)
        if match:
            found[key] = float(match.group(1))
    for key, label in _SPREADS.items():
        match = re.search(r"\] %s: (min = .*)" % label, text)
        if match:
            pairs = re.findall(r"(?:(min|max|mean|median)|percentile\(([\d.]+)%\)) = ([^ ,]+) ms", match.group(1))
            found[key] = {name or "p" + percent: float(value) for name, percent, value in pairs}
    return found


_TOTALS = {
    "throughput_qps": "Throughput",
    "host_walltime_s": "Total Host Walltime",
    "gpu_compute_s": "Total GPU Compute Time",
}
_SPREADS = {
    "latency_ms": "Latency",
    "gpu_ms": "GPU Compute Time",
    "h2d_ms": "H2D Latency",
    "d2h_ms": "D2H Latency",
    "enqueue_ms": "Enqueue Time",
    "end_to_end_ms": "End-to-End Host Latency",  # up to 8.2
}


def device(text):
    """The GPU that a log names; None if it names none."""
    found = re.search(r"Selected Device: (.+)", text)
    return found.group(1).strip() if found else None


_STAMP = re.compile(r"^\[\d\d/\d\d/\d{4}-\d\d:\d\d:\d\d\] ")
_ERROR = re.compile(r"^(?:\[\d\d/\d\d/\d{4}-\d\d:\d\d:\d\d\] )?(?:\[TRT\] )?\[[EF]\] (?:\[TRT\] )?(.*)")
_NODE = re.compile(r'While parsing node number (\d+) \[(\S+)(?: -> "(.*)")?\]')
_CODE = re.compile(r"Error Code \d+: [^()]*\((.*?)\)?\.?\s*$")
_CONSEQUENCES = (
    *(
        "Failed to parse onnx file",
        "Parsing model failed",
        "Failed to create engine from model",
        "Engine set up failed",
    ),
    *("Engine creation failed", "Building engine failed", "Engine could not be created from network", "Invalid Engine"),
    *("Engine deserialization failed", "Error occurred during inference", "Inference set up failed", "Empty "),
    *("Engine generation failed because all backend strategies failed", "Network And Config setup failed"),
    "Assertion engine",  # enginePtr != nullptr
)
_CRASHES = ("error while loading shared libraries", "Segmentation fault", "std::bad_alloc", "Cuda failure", "Killed")


def failure(text):
    """The one sentence of a failed run's log that tells why: the last error that is not just the consequence of another."""
    errors, node = [], None
    lines = text.splitlines()
    for i, line in enumerate(lines):
        found = _ERROR.match(line)
        if not found:
            continue
        message = found.group(1).strip()
        node = _NODE.search(message) or node
        if re.match(r"(?:ModelImporter\.cpp:\d+: )?(?:While parsing node|--- (?:Begin|End) node|input: )", message):
            continue
        inside = re.search(r"ERROR: (\S+) In function (\w+):$", message)
        if inside and i + 1 < len(lines) and not _STAMP.match(lines[i + 1]):
            errors.append(_at(node, re.sub(r"^\[\d+\] (?:Assertion failed: )?", "", lines[i + 1].strip())))
        elif message and "Skipping tactic" not in message:
            errors.append(_plain(message))
    telling = [error for error in errors if not error.startswith(_CONSEQUENCES)]
    if telling:
        return telling[-1]
    for line in reversed(lines):  # newer versions give the cause as a warning
        if "Error Code" in line and not _plain(line).startswith(_CONSEQUENCES):
            return _plain(line)
    for line in lines:
        if any(crash in line for crash in _CRASHES):
            return _STAMP.sub("", line).strip()
    said = [line.strip() for line in lines if line.strip() and not line.startswith("&&&&")]
    return errors[0] if errors else said[-1] if said else "trtexec said nothing"


def _at(node, message):
    if node is None:
        return message
    return "node %s (%s): %s" % (node.group(1), node.group(2), message)


def _plain(message):
    """Without the source file and the code in front of what an error says."""
    inside = _CODE.search(message)
    if inside:
        return inside.group(1).strip()
    message = re.sub(r"^(?:Error\[\d+\]|\d+): ", "", message)
    return re.sub(r"^\[[^\]]*::\d+\] ", "", message).strip()


def _json(text, what):
    """C++ streams write nan and inf in ways that JSON has not."""
    plain = re.sub(r"(:\s*|,\s*|\[\s*)-?(?:nan(?:\([^)]*\))?|inf)\b", r"\g<1>null", text)
    try:
        return json.loads(plain, strict=False)
    except ValueError:
        raise ValueError("the %s of trtexec can't be read: %r" % (what, text[-80:]))
