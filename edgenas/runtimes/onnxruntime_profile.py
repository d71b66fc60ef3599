"""What ONNX Runtime's profiler writes, as durations of each node. Standard library, Python 3.6."""


def per_node(events, count):
    """[{"name": node, "op": type, "shapes": [first input, first output], "us": [one duration a run]}] of the last `count` runs, in the
    order in which nodes run. `events` is the profile as JSON has it."""
    run_count = sum(event.get("name") == "model_run" for event in events)
    if run_count < count:
        raise RuntimeError("ONNX Runtime profiled %d runs where %d were due" % (run_count, count))
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
        node["us"] = [sum(node["us"][i : i + each]) for i in range(0, len(node["us"]), each)][-count:]
    return list(nodes.values())


def first_shape(tensors):
    """[{"float": [1, 16, 28, 28]}, ...], as a profile has it -> [1, 16, 28, 28]."""
    for tensor in tensors or []:
        for shape in tensor.values():
            return shape
    return []
