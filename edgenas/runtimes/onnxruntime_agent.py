"""ONNX Runtime's on-device part: opens, profiles and runs ONNX files on the CPU. Standard library, numpy and onnxruntime."""

import json
import os
import tempfile

from onnxruntime_profile import per_node
from timing import DROPPED, InProcess

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # from 1.29 on it reports to its makers unless told before it is imported

PROVIDERS = {"cpu": "CPUExecutionProvider", "xnnpack": "XnnpackExecutionProvider"}

TYPES = {
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(int8)": "int8",
    "tensor(uint8)": "uint8",
    "tensor(bool)": "bool",
}


def versions():
    try:
        import onnxruntime
    except ImportError:
        return {}
    return {"onnxruntime": onnxruntime.__version__}


def open_session(path, wanted, profile_prefix=None):
    import onnxruntime

    threads, provider = wanted["threads"], PROVIDERS[wanted.get("provider", "cpu")]
    there = onnxruntime.get_available_providers()
    if provider not in there:
        raise RuntimeError("this ONNX Runtime was built without %s; it has %s" % (provider, ", ".join(there)))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0" if threads > 1 else "1")
    if profile_prefix:
        options.enable_profiling = True
        options.profile_file_prefix = profile_prefix
    providers = [provider] if provider == PROVIDERS["cpu"] else [provider, PROVIDERS["cpu"]]
    return onnxruntime.InferenceSession(path, options, providers=providers)


def random_feed(session):
    import numpy

    rng = numpy.random.RandomState(0)
    feed = {}
    for tensor in session.get_inputs():
        shape = [side if isinstance(side, int) else 1 for side in tensor.shape]
        feed[tensor.name] = rng.standard_normal(shape).astype(TYPES.get(tensor.type, "float32"))
    return feed


def open_model(path, options):
    session = open_session(path, options)
    feed = random_feed(session)
    return InProcess(lambda: session.run(None, feed), options["threads"])


def open_profile(path, options):
    """(timer, finish): `finish(chunks, chunk)`, after that many chunks at the end, gives [{"name": node, "op": type, "shapes":
    [first input, first output], "us": [one duration a run]}], in order."""
    folder = tempfile.TemporaryDirectory()
    session = open_session(path, options, os.path.join(folder.name, "profile"))
    feed = random_feed(session)

    def finish(chunks, chunk):
        with open(session.end_profiling(), encoding="utf-8") as file:
            events = json.load(file)
        folder.cleanup()
        # the warm-up, and the runs that every chunk drops, were profiled as well
        each = chunk + DROPPED
        nodes = per_node(events, chunks * each)
        for node in nodes:
            node["us"] = [us for i, us in enumerate(node["us"]) if i % each >= DROPPED]
        return nodes

    return InProcess(lambda: session.run(None, feed), options["threads"]), finish


def infer(path, inputs, outputs, options):
    """Run every row of the float32 .npy `inputs` (N, ...) as a batch of one; write the first output (N, ...) to `outputs`."""
    import numpy

    session = open_session(path, options)
    name = session.get_inputs()[0].name
    images = numpy.load(inputs, mmap_mode="r")
    rows = [session.run(None, {name: numpy.ascontiguousarray(images[i : i + 1])})[0] for i in range(len(images))]
    numpy.save(outputs, numpy.concatenate(rows))
