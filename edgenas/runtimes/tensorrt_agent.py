"""TensorRT's on-device part: builds, times, profiles and runs engines through NVIDIA's trtexec. Standard library only.

An engine is built once for a GPU, a TensorRT, a model and its flags (minutes on a small board),
and kept. Starting trtexec costs seconds, so runs come in chunks of `LEAST_CHUNK` or more.

Options: {"threads": of no effect, "precision": "fp32" | "fp16" | "int8" | "best", "cache": folder of the engines or null,
"calibration_cache": path or null, "workspace_mib": limit or null}.
"""

import array
import ast
import hashlib
import json
import os
import shutil
import struct
import sys
import tempfile

import place
import probes
import trtexec

LEAST_CHUNK = 50
LIMITS_S = {"version": 60, "build": 3600, "run": 600}
CACHE = os.path.join(os.path.expanduser("~"), ".cache", "edgenas", "engines")
UNLOADABLE = ("eserializ", "Version tag does not match", "engine plan file")
_known = {}


def versions():
    """{"tensorrt": "8.2.1"}, or {} where no trtexec runs. Asked once in a process."""
    if "versions" not in _known:
        exe = trtexec.find()
        found = None
        if exe:
            try:
                found = trtexec.version(call([exe, "--help"], LIMITS_S["version"])[1])
            except RuntimeError:
                pass
        _known["versions"] = {"tensorrt": ".".join(str(part) for part in found)} if found else {}
    return _known["versions"]


def open_model(path, options):
    return Model(path, options)


def open_profile(path, options):
    """(timer, finish): `timer` times as a model's; `finish` gives [{"name": layer, "op": kind, "shapes": [first input, first
    output], "us": [average of each chunk]}], in the order in which they run, after any number of chunks."""
    profile = Profile(path, options)
    return profile, profile.finish


class Model(object):
    """An engine, built or found. `chunk(count)` gives what that many further runs took."""

    def __init__(self, path, options):
        self.engine = Engine(path, options)
        self.folder = tempfile.TemporaryDirectory(prefix="edgenas-trtexec-")

    def chunk(self, count):
        """(wall_ns, busy_ns), both the copy in, the kernels and the copy out: what an app waits for."""
        times = self.path("times.json")
        self.engine.run(lambda *found: self.command(*(found + (count, times))), times)
        found = [int(run["latencyMs"] * 1e6) for run in trtexec.times(read(times))][-count:]
        if len(found) < count:
            raise RuntimeError("trtexec gave the times of %d runs where %d were asked for" % (len(found), count))
        return found, list(found)

    def command(self, exe, version, onnx, engine, count, times):
        return trtexec.bench_command(exe, version, onnx, engine, count, times)

    def path(self, name):
        return os.path.join(self.folder.name, name)

    def close(self):
        self.folder.cleanup()


class Profile(Model):
    def __init__(self, path, options):
        Model.__init__(self, path, options)
        self.layers, self.kinds = [], {}

    def command(self, exe, version, onnx, engine, count, times):
        return trtexec.profile_command(
            exe, version, onnx, engine, count, times, self.path("profile.json"), self.path("layers.json")
        )

    def chunk(self, count):
        timed = Model.chunk(self, count)
        layers = trtexec.layer_profile(read(self.path("profile.json")))[1]
        if not layers:
            raise RuntimeError("trtexec profiled no layers")
        if not self.layers:
            self.layers = [{"name": layer["name"], "us": []} for layer in layers]
        if [layer["name"] for layer in layers] != [layer["name"] for layer in self.layers]:
            raise RuntimeError("trtexec profiled other layers than before")
        for kept, layer in zip(self.layers, layers):
            kept["us"].append(layer["us"])
        if not self.kinds and os.path.exists(self.path("layers.json")):
            try:
                known = trtexec.layer_info(read(self.path("layers.json")))
            except ValueError:
                known = []  # the times are what counts
            self.kinds = {layer["name"]: layer for layer in known}
        return timed

    def finish(self, chunks, chunk):
        nothing = {"op": "", "shapes": [[], []]}
        nodes = []
        for layer in self.layers:
            kind = self.kinds.get(layer["name"], nothing)
            nodes.append(dict(layer, op=kind["op"] or "Layer", shapes=kind["shapes"]))
        self.close()
        return nodes


def infer(path, inputs, outputs, options):
    """Run the rows of the float32 .npy `inputs` (N, ...) through the engine, as many at once as its ONNX file's batch; write its
    first output (N, ...) to `outputs`. Every batch starts trtexec anew: give a file of a large batch."""
    input_name, dimensions, output_name = interface(path)
    engine = Engine(path, options)
    batch = dimensions[0] if dimensions and dimensions[0] > 0 else 1
    values, row_shape = array.array("f"), None
    with open(inputs, "rb") as file:
        shape = read_npy_header(file)
        row_bytes = 4 * size(shape[1:])
        if size(dimensions[1:]) != size(shape[1:]):
            raise ValueError("the inputs have rows of %s, the model takes %s" % (shape[1:], tuple(dimensions[1:])))
        with tempfile.TemporaryDirectory(prefix="edgenas-trtexec-") as folder:
            written = os.path.join(folder, "outputs.json")
            for start in range(0, shape[0], batch):
                rows = min(batch, shape[0] - start)
                raw = file.read(rows * row_bytes)
                if len(raw) < rows * row_bytes:
                    raise ValueError("%s breaks off after %d of %d rows" % (inputs, start, shape[0]))
                with open(os.path.join(folder, "input.bin"), "wb") as one:
                    one.write(raw + bytes((batch - rows) * row_bytes))  # the last batch is filled up with zeros

                def command(exe, version, onnx, built):
                    return trtexec.infer_command(exe, version, onnx, built, {input_name: "input.bin"}, written)

                engine.run(command, written, cwd=folder)
                given = trtexec.outputs(read(written))
                if output_name not in given:
                    raise RuntimeError("trtexec gave no output %r, but %s" % (output_name, ", ".join(sorted(given))))
                out_shape, numbers = given[output_name]
                if not out_shape or out_shape[0] != batch:
                    raise RuntimeError("trtexec's output %r is %s for a batch of %d" % (output_name, out_shape, batch))
                row_shape = out_shape[1:]
                values.extend(numbers[: rows * size(row_shape)])
    if row_shape is None:
        raise ValueError("%s has no rows" % inputs)
    write_npy(outputs, (shape[0],) + row_shape, values)


class Engine(object):
    """The engine of an ONNX file for this GPU, this TensorRT and these options, in the cache."""

    def __init__(self, path, options):
        self.onnx, self.options = os.path.abspath(path), options
        with open(path, "rb"):
            pass  # a missing file is named by its own error
        self.exe = trtexec.find()
        found = versions().get("tensorrt")
        if not self.exe or not found:
            raise RuntimeError("no trtexec runs here: it was looked for on PATH and in %s" % ", ".join(trtexec.FOLDERS))
        self.version = tuple(int(part) for part in found.split("."))
        self.cache = os.path.abspath(os.path.expanduser(options.get("cache") or CACHE))
        os.makedirs(self.cache, exist_ok=True)
        calibration = options.get("calibration_cache")
        self.made_of = {
            "gpu": gpu_name(self.exe),
            "tensorrt": found,
            "flags": trtexec.build_flags(self.version, options),
            "onnx_sha256": sha256(path),
            "calibration_sha256": sha256(calibration) if calibration else None,
        }
        self.path = os.path.join(self.cache, key_of(self.made_of) + ".engine")
        if not os.path.exists(self.path):
            self.build()

    def build(self):
        """Under temporary names, and renamed when whole: one that is killed leaves neither half an engine nor half a timing
        cache."""
        timing = os.path.join(self.cache, key_of([self.made_of["gpu"], self.made_of["tensorrt"]]) + ".timing")
        with tempfile.TemporaryDirectory(prefix="building-", dir=self.cache) as folder:
            built, timed = os.path.join(folder, "engine"), os.path.join(folder, "timing")
            if os.path.exists(timing):
                shutil.copyfile(timing, timed)
            options = dict(self.options, timing_cache=timed)
            must(trtexec.build_command(self.exe, self.version, self.onnx, built, options), "build")
            if not os.path.exists(built):
                raise RuntimeError("trtexec built %s but left no engine" % os.path.basename(self.onnx))
            with open(os.path.join(folder, "made_of"), "w") as file:
                json.dump(self.made_of, file, indent=2, sort_keys=True)
            os.replace(os.path.join(folder, "made_of"), self.path + ".json")
            if os.path.exists(timed):
                os.replace(timed, timing)
            os.replace(built, self.path)

    def run(self, command, result, cwd=None):
        """Run what `command(exe, version, onnx, engine)` gives, which writes the file `result`. An engine that does not load (a disk's
        fault, a library replaced) is built again, once."""
        for again in (True, False):
            if os.path.exists(result):
                os.remove(result)
            try:
                must(command(self.exe, self.version, self.onnx, self.path), "run", cwd)
            except RuntimeError as error:
                if not again or not any(word in str(error) for word in UNLOADABLE):
                    raise
                os.remove(self.path)
                self.build()
                continue
            if not os.path.exists(result):
                raise RuntimeError("trtexec ran but did not write %s" % os.path.basename(result))
            return


def gpu_name(exe):
    """What engines are bound to: the board, or the GPU's name. Asked once in a process."""
    if "gpu" not in _known:
        _known["gpu"] = probes.board() or nvidia_smi() or trtexec_device(exe) or "unknown GPU"
    return _known["gpu"]


def nvidia_smi():
    try:
        code, text = call(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"], LIMITS_S["version"])
    except RuntimeError:
        return None
    return text.strip().splitlines()[0].strip() if code == 0 and text.strip() else None


def trtexec_device(exe):
    """trtexec names its GPU before it finds that there is no such engine."""
    try:
        return trtexec.device(call([exe, "--loadEngine=" + os.path.join(os.sep, "nothing")], LIMITS_S["version"])[1])
    except RuntimeError:
        return None


def must(command, limit, cwd=None):
    """The log of a command that succeeds. Raises RuntimeError with trtexec's own sentence if it does not."""
    code, text = call(command, LIMITS_S[limit], cwd)
    if code != 0:
        end = "" if code > 0 else " (signal %d)" % -code
        raise RuntimeError("trtexec failed%s: %s" % (end, trtexec.failure(text)))
    return text


def call(command, limit_s, cwd=None):
    """(exit code, all that it wrote). Raises RuntimeError if it can't be started, or does not end in time."""
    code, said, reason = place.run(command, limit_s, cwd, merged=True)
    if code is None:
        last = (said.strip().splitlines() or ["nothing"])[-1]
        raise RuntimeError("%s; it last said: %s" % (reason, last))
    return code, said


def read(path):
    with open(path, "rb") as file:
        return file.read().decode("utf-8", "replace")


def sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def key_of(made_of):
    return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:32]


def size(shape):
    product = 1
    for side in shape:
        product *= side
    return product


def read_npy_header(file):
    """The shape of a .npy of little-endian float32 in C order; the file is left where the values start.
    Format: numpy.org/doc/stable/reference/generated/numpy.lib.format.html"""
    if file.read(6) != b"\x93NUMPY":
        raise ValueError("%s is not a .npy file" % file.name)
    major = file.read(2)[0]
    length = struct.unpack("<H", file.read(2))[0] if major == 1 else struct.unpack("<I", file.read(4))[0]
    header = ast.literal_eval(file.read(length).decode("latin-1" if major < 3 else "utf-8"))
    if header["descr"] != "<f4" or header["fortran_order"] or not header["shape"]:
        raise ValueError("%s must hold rows of little-endian float32 in C order, but has %r" % (file.name, header))
    return tuple(header["shape"])


def write_npy(path, shape, values):
    header = repr({"descr": "<f4", "fortran_order": False, "shape": tuple(shape)}).encode("latin-1")
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    if sys.byteorder == "big":
        values.byteswap()
    with open(path, "wb") as file:
        file.write(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header)
        values.tofile(file)


def interface(path):
    """(first input, its dimensions, first output) of an ONNX file; a dimension that is left open is 0.

    Field numbers from onnx.proto3: ModelProto.graph 7; GraphProto.initializer 5, input 11, output 12; TensorProto.name 8;
    ValueInfoProto.name 1, type 2; TypeProto.tensor_type 1; Tensor.shape 2; TensorShapeProto.dim 1; Dimension.dim_value 1."""
    with open(path, "rb") as file:
        data = memoryview(file.read())
    graph = field(data, 7)
    if graph is None:
        raise ValueError("%s holds no ONNX graph" % path)
    weights = {bytes(field(tensor, 8) or b"") for number, tensor in fields(graph) if number == 5}
    inputs = [value for number, value in fields(graph) if number == 11 and bytes(field(value, 1)) not in weights]
    outputs = [value for number, value in fields(graph) if number == 12]
    if not inputs or not outputs:
        raise ValueError("%s has no input or no output" % path)
    shape = field(field(field(inputs[0], 2), 1), 2)
    dimensions = [field(side, 1) or 0 for number, side in fields(shape) if number == 1]
    return bytes(field(inputs[0], 1)).decode(), dimensions, bytes(field(outputs[0], 1)).decode()


def field(message, wanted):
    for number, value in fields(message):
        if number == wanted:
            return value
    return None


def fields(message):
    """(number, value) of each field of a protobuf message: an int of a varint, else its bytes."""
    at = 0
    while at < len(message):
        key, at = varint(message, at)
        kind = key & 7
        if kind == 0:
            value, at = varint(message, at)
        else:
            if kind == 2:
                length, at = varint(message, at)
            elif kind in (1, 5):
                length = 8 if kind == 1 else 4
            else:
                raise ValueError("this is not an ONNX file")
            value, at = message[at : at + length], at + length
        if at > len(message):
            raise ValueError("this ONNX file breaks off")
        yield key >> 3, value


def varint(message, at):
    value = shift = 0
    while True:
        if at >= len(message):
            raise ValueError("this ONNX file breaks off")
        byte = message[at]
        value |= (byte & 127) << shift
        at += 1
        shift += 7
        if byte < 128:
            return value, at
