"""ONNX Runtime's on-device part: opens, profiles and runs ONNX files on the CPU. Standard library, numpy and onnxruntime."""

import json
import os
import tempfile


def versions():
    try:
        import onnxruntime
    except ImportError:
        return {}
    return {"onnxruntime": onnxruntime.__version__}


def open_session(path, threads, profile_prefix=None):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0" if threads > 1 else "1")
    if profile_prefix:
        options.enable_profiling = True
        options.profile_file_prefix = profile_prefix
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def random_feed(session):
    import numpy

    rng = numpy.random.RandomState(0)
    feed = {}
    for tensor in session.get_inputs():
        shape = [side if isinstance(side, int) else 1 for side in tensor.shape]
        feed[tensor.name] = rng.standard_normal(shape).astype(numpy.float32)
    return feed


def open_model(path, threads):
    session = open_session(path, threads)
    feed = random_feed(session)
    return lambda: session.run(None, feed)


def open_profile(path, threads):
    """(run, finish): after any number of runs `finish` gives [{"name": node, "op": type, "shapes":
    [first input, first output], "us": [one duration a run]}], in order."""
    folder = tempfile.TemporaryDirectory()
    session = open_session(path, threads, os.path.join(folder.name, "profile"))
    feed = random_feed(session)
    count = [0]

    def run():
        session.run(None, feed)
        count[0] += 1

    def finish():
        with open(session.end_profiling()) as file:
            events = json.load(file)
        folder.cleanup()
        return per_node(events, count[0])

    return run, finish


def per_node(events, run_count):
    nodes = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            name = event["name"][: -len("_kernel_time")]
            args = event["args"]
            shapes = [first_shape(args.get(key)) for key in ("input_type_shape", "output_type_shape")]
            found = {"name": name, "op": args.get("op_name", ""), "shapes": shapes, "us": []}
            node = nodes.setdefault(name, found)
            node["us"].append(event["dur"])
    for node in nodes.values():
        each = len(node["us"]) // run_count  # more than one event a run if two nodes share a name
        node["us"] = [sum(node["us"][i : i + each]) for i in range(0, len(node["us"]), each)]
    return list(nodes.values())


def first_shape(tensors):
    """[{"float": [1, 16, 28, 28]}, ...], as a profile has it -> [1, 16, 28, 28]."""
    for tensor in tensors or []:
        for shape in tensor.values():
            return shape
    return []


def infer(path, inputs, outputs, threads):
    """Run every row of the float32 .npy `inputs` (N, ...) as a batch of one; write the first output (N, ...) to `outputs`."""
    import numpy

    session = open_session(path, threads)
    name = session.get_inputs()[0].name
    images = numpy.load(inputs, mmap_mode="r")
    rows = [session.run(None, {name: numpy.ascontiguousarray(images[i : i + 1])})[0] for i in range(len(images))]
    numpy.save(outputs, numpy.concatenate(rows))
