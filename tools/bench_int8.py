"""What INT8 is worth on this machine: MobileNetV2 in FP32 and INT8, measured in one interleaved run.

    python tools/bench_int8.py                  # 96 px
    python tools/bench_int8.py --px 224 --json

MobileNetV2 1.0 (Sandler et al., CVPR 2018: the standard t, c, n, s table, ReLU6) with random weights is written as FP32 and as
INT8 with 8-bit and with 7-bit weights, each file as `edgenas build` writes it. Prints p50s and their ratio to FP32, and counts in
ONNX Runtime's optimised graph which convolutions run quantized (QLinearConv) and which don't. Latency depends neither on
the weights nor on how many bits of them are used; 7 bits are listed because processors without VNNI need them to be accurate.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgenas.measure import SamplingRule
from edgenas.network import costs
from edgenas.network.builder import INPUT, Builder
from edgenas.network.graph import Network
from edgenas.onnxio.random_weights import random_ranges, random_weights
from edgenas.pipeline.context import Machine, opened_machine

if TYPE_CHECKING:
    import onnx

STEM, LAST = 32, 1280
TABLE = (  # expand ratio t, channels c, repeats n, stride s of the first
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
RELU6 = (("max", 6.0), ("min", 0.0))
WEIGHT_BITS = (8, 7)
TRIES = 5
FLOAT_CONVOLUTIONS = ("Conv", "FusedConv")


@click.command(help=(__doc__ or "").split("\n", 1)[0])
@click.option("--px", default=96, show_default=True, type=click.IntRange(32), help="Side of the images.")
@click.option("--seconds", default=4.0, show_default=True, help="About how long each file is run.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def main(px: int, seconds: float, as_json: bool) -> None:
    with opened_machine("host", None, None) as machine:
        found = bench(machine, px, seconds)
    click.echo(json.dumps(found, indent=2) if as_json else text(found))


def bench(machine: Machine, px: int, seconds: float) -> dict[str, Any]:
    network = mobilenet_v2(px)
    weights, ranges = random_weights(network), random_ranges(network)
    runtime = machine.bench.runtime
    models = {"fp32": runtime.fp32_model(network, weights)}
    models |= {f"int8-w{bits}": runtime.int8_model(network, weights, ranges, bits) for bits in WEIGHT_BITS}
    load = round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
    rule = SamplingRule(warmup_s=0.3, min_count=100, max_count=4000, max_s=seconds / 2, chunk=10)
    timed = machine.bench.time_models(list(models.values()), rule, tries=TRIES)
    fp32 = timed[0]
    files = {}
    for (name, model), measured in zip(models.items(), timed, strict=True):
        operators = optimised_operators(model)
        files[name] = {
            "p50_ms": measured.p50_ms,
            "p90_ms": measured.percentile_ms(90),
            "cpu_p50_ms": measured.cpu_p50_ms,
            "ratio_to_fp32": measured.p50_ms / fp32.p50_ms,
            "steady_ratio_to_fp32": measured.reference_ratio / fp32.reference_ratio,
            "n": len(measured.samples_ns),
            "size_bytes": model.ByteSize(),
            "qlinear_convs": operators["QLinearConv"],
            "float_convs": sum(operators[op] for op in FLOAT_CONVOLUTIONS),
            "warnings": list(measured.warnings),
        }
    return {
        "cpu": machine.probe["cpu_name"],
        "runtime_version": machine.spec.runtime(runtime.NAME).version,
        "threads": machine.threads,
        "px": px,
        "macs": costs.macs(network),
        "params": costs.params(network),
        "convs": sum(node.op == "Conv" for node in network.nodes),
        "device_weight_bits": machine.weight_bits,
        "load": load,
        "files": files,
    }


def mobilenet_v2(px: int, classes: int = 1000) -> Network:
    b = Builder((1, 3, px, px))

    def conv_relu6(name: str, x: str, channels: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> str:
        return b.activation(f"{name}/relu6", b.conv(name, x, channels, kernel, stride, groups), "Clip")

    x = conv_relu6("stem", INPUT, STEM, 3, 2)
    for stage, (expand, channels, repeats, stride) in enumerate(TABLE):
        for i in range(repeats):
            name, given = f"stage{stage}/block{i}", x
            inner = b.shape(x)[1] * expand
            y = x if expand == 1 else conv_relu6(f"{name}/expand", x, inner)
            y = conv_relu6(f"{name}/depthwise", y, inner, 3, stride if i == 0 else 1, inner)
            y = b.conv(f"{name}/project", y, channels)
            x = b.add(f"{name}/add", y, given) if b.shape(y) == b.shape(given) else y
    x = b.flatten("flatten", b.global_average_pool("pool", conv_relu6("last", x, LAST)))
    network = b.finish(b.linear("classes", x, classes))
    nodes = tuple(replace(node, attributes=RELU6) if node.op == "Clip" else node for node in network.nodes)
    return replace(network, nodes=nodes)


def optimised_operators(model: onnx.ModelProto) -> Counter[str]:
    """How often each operator stands in the graph that ONNX Runtime makes of the model on this machine."""
    import onnx
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(Path(folder) / "optimised.onnx")
        options.log_severity_level = 3
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        graph = onnx.load(options.optimized_model_filepath).graph
    return Counter(node.op_type for node in graph.node)


def text(found: dict[str, Any]) -> str:
    lines = [
        f"{found['cpu']}, ONNX Runtime {found['runtime_version']}, {found['threads']} thread(s), load {found['load']}; "
        f"this machine needs {found['device_weight_bits']}-bit weights",
        f"MobileNetV2 1.0 at {found['px']} px: {found['macs'] / 1e6:.0f} M MACs, {found['params'] / 1e6:.2f} M parameters, "
        f"{found['convs']} convolutions",
        "",
        f"{'':10}{'p50 ms':>10}{'p90 ms':>10}{'of FP32':>10}{'QLinearConv':>14}{'Conv':>8}{'MiB':>8}",
    ]
    for name, f in found["files"].items():
        lines.append(
            f"{name:10}{f['p50_ms']:>10.3f}{f['p90_ms']:>10.3f}{f['ratio_to_fp32']:>10.2f}"
            f"{f['qlinear_convs']:>14}{f['float_convs']:>8}{f['size_bytes'] / 2**20:>8.1f}"
        )
    quantized = [f for name, f in found["files"].items() if name != "fp32"]
    lines += [
        "",
        f"Every convolution runs quantized in INT8: {'yes' if all_quantized(quantized, found['convs']) else 'NO'}",
    ]
    lines += [f"warning: {name}: {note}" for name, f in found["files"].items() for note in f["warnings"]]
    return "\n".join(lines)


def all_quantized(files: Sequence[dict[str, Any]], convs: int) -> bool:
    return all(f["qlinear_convs"] == convs and f["float_convs"] == 0 for f in files)


if __name__ == "__main__":
    main()
