"""Fits the calibrations that ship with edgenas to published latencies of whole networks, and writes them into `latency_tables/`.

    python tools/make_calibrations.py --latency latency_ms.csv.gz --arch arch.csv.gz --fps jetson_nano_xavier_fps.csv

The files are those of `bench_calibration.py`; --fps has a row a network: `model` (a torchvision name) and frames per second of
TensorRT FP16 at batch 1 and 224 px in `nano_tensorrt_fps`. Published measurements don't become part of edgenas: a calibration holds
what the fit needs of them, features and weights. Each file says its sources and the error of predicting a family of networks that
was left out.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
from bench_calibration import read_latencies

from edgenas.latency import calibration as calibrations
from edgenas.latency.calibrate import Origin, Tables, features, fit
from edgenas.latency.calibration import CalibratedPredictor
from edgenas.network.builder import INPUT, Builder
from edgenas.network.graph import Network
from edgenas.network.readings import depends_on_input
from edgenas.spaces.architectures import network_of

CELLS = "NAS-Bench-201 cells"
NANO = "latencies of NAS-Bench-201 networks on a Jetson Nano: BRP-NAS, https://github.com/SamsungLabs/eagle"
TORCHVISION = (
    "frames per second of torchvision networks at 224 px: torch2trt, https://github.com/NVIDIA-AI-IOT/torch2trt#models"
)
PI_4 = (
    "latencies of NAS-Bench-201 networks on a Raspberry Pi 4: HW-NAS-Bench, https://github.com/GATECH-EIC/HW-NAS-Bench"
)
MOST_CELLS = 300


@click.command(help=(__doc__ or "").split("\n", 1)[0])
@click.option("--latency", "latency_file", required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--arch", "arch_file", required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--fps", "fps_file", required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), default=Path("latency_tables"), show_default=True
)
def main(latency_file: Path, arch_file: Path, fps_file: Path, out: Path) -> None:
    plans = (
        ("jetson_nano_fp16", Origin("jetson-nano", "tensorrt", "fp16", 1, f"{NANO}; {TORCHVISION}"), True),
        ("jetson_nano_fp32", Origin("jetson-nano", "tensorrt", "fp32", 1, NANO), False),
        ("raspberry_pi_4", Origin("raspberry-pi-4", "onnxruntime", "fp32", 1, PI_4), False),
    )
    for column, origin, with_known in plans:
        networks, ms, families = measured_cells(latency_file, column, arch_file)
        if with_known:
            for name, fps in read_fps(fps_file).items():
                networks.append(KNOWN[name]())
                families.append(name.rstrip("_bn").rstrip("0123456789_"))
                ms = np.append(ms, 1000 / fps)
        path = calibrations.save(fitted(features(networks), ms, families, origin), out / origin.device)
        found = calibrations.load(path)
        click.echo(
            f"{path} ({path.stat().st_size / 1e3:.0f} kB), {found.meta.networks} networks, read as {found.reading}"
        )
        for name, value in found.meta.left_out.items():
            click.echo(f"  {name}: {value:.3g}")


def measured_cells(latency_file: Path, column: str, arch_file: Path) -> tuple[list[Network], np.ndarray, list[str]]:
    """At most MOST_CELLS, evenly drawn."""
    texts, ms = read_latencies(latency_file, column, arch_file)
    order = np.random.default_rng(0).permutation(len(texts))
    kept, networks = [], []
    for i in order:
        network = network_of(texts[i])
        if depends_on_input(network):
            kept.append(i)
            networks.append(network)
        if len(kept) == MOST_CELLS:
            break
    return networks, ms[kept], [CELLS] * len(kept)


def read_fps(path: Path) -> dict[str, float]:
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["nano_tensorrt_fps"]]
    return {row["model"]: float(row["nano_tensorrt_fps"]) for row in rows if row["model"] in KNOWN}


def fitted(tables: Tables, ms: np.ndarray, families: list[str], origin: Origin) -> calibrations.Calibration:
    """With the mean absolute error of each family, in percent, predicted by a fit without it, among the left-out figures."""
    whole = fit(tables, ms, origin)
    labels = np.array(families)
    figures = dict(whole.meta.left_out)
    for family in dict.fromkeys(families):
        mine = labels == family
        if mine.all():
            continue
        without = fit({r: t.rows(~mine) for r, t in tables.items()}, ms[~mine], origin)
        there = CalibratedPredictor(without).of_table(tables[without.reading].rows(mine))
        apart = np.abs(np.array([each.latency_ms for each in there]) / ms[mine] - 1)
        held = [each.low_ms <= x <= each.high_ms for each, x in zip(there, ms[mine], strict=True)]
        figures[f"without {family}: mape_pct"] = float(apart.mean() * 100)
        figures[f"without {family}: coverage_80"] = float(np.mean(held))
    return replace(whole, meta=replace(whole.meta, left_out=figures))


# Networks at 224 px as torchvision defines them (https://github.com/pytorch/vision, `torchvision/models`), inference form.


def _start() -> Builder:
    return Builder((1, 3, 224, 224))


def _conv_relu(
    b: Builder, name: str, x: str, channels: int, kernel: int, stride: int = 1, pad: int | None = None
) -> str:
    return b.activation(f"{name}/relu", b.conv(f"{name}/conv", x, channels, kernel, stride, pad=pad))


def _dense(b: Builder, x: str, features: tuple[int, ...]) -> Network:
    for i, count in enumerate(features):
        x = b.linear(f"fc{i}", x if i else b.flatten("flatten", x), count)
        if i + 1 < len(features):
            x = b.activation(f"fc{i}/relu", x)
    return b.finish(x)


def alexnet() -> Network:
    b = _start()
    x = b.max_pool("pool1", _conv_relu(b, "1", INPUT, 64, 11, 4, 2), 3, 2)
    x = b.max_pool("pool2", _conv_relu(b, "2", x, 192, 5), 3, 2)
    for i, width in enumerate((384, 256, 256)):
        x = _conv_relu(b, f"{3 + i}", x, width, 3)
    return _dense(b, b.max_pool("pool5", x, 3, 2), (4096, 4096, 1000))


def vgg(*convolutions: int) -> Network:
    """Convolutions of each of the five stages."""
    b, x = _start(), INPUT
    for stage, (count, width) in enumerate(zip(convolutions, (64, 128, 256, 512, 512), strict=True)):
        for i in range(count):
            x = _conv_relu(b, f"stage{stage}/{i}", x, width, 3)
        x = b.max_pool(f"stage{stage}/pool", x, 2, 2)
    return _dense(b, x, (4096, 4096, 1000))


def squeezenet(version: str) -> Network:
    b = _start()
    old = version == "1_0"
    x = _conv_relu(b, "stem", INPUT, 96 if old else 64, 7 if old else 3, 2, 0)
    pools = (0, 3, 7) if old else (0, 2, 4)
    for i, width in enumerate((16, 16, 32, 32, 48, 48, 64, 64)):
        if i in pools:
            x = b.max_pool(f"pool{i}", x, 3, 2, (b.shape(x)[2] + 1) % 2)
        squeezed = _conv_relu(b, f"fire{i}/squeeze", x, width, 1)
        parts = [_conv_relu(b, f"fire{i}/expand{k}", squeezed, 4 * width, k) for k in (1, 3)]
        x = b.concat(f"fire{i}/concat", *parts)
    x = b.global_average_pool("pool", _conv_relu(b, "classes", x, 1000, 1))
    return b.finish(b.flatten("flatten", x))


def resnet(blocks: tuple[int, ...], bottleneck: bool) -> Network:
    b = _start()
    x = b.max_pool("pool", _conv_relu(b, "stem", INPUT, 64, 7, 2), 3, 2, 1)
    for stage, count in enumerate(blocks):
        width = 64 * 2**stage
        out = width * (4 if bottleneck else 1)
        for i in range(count):
            name, stride = f"stage{stage}/{i}", 2 if stage and i == 0 else 1
            if bottleneck:
                y = _conv_relu(b, f"{name}/a", x, width, 1)
                y = b.conv(f"{name}/c", _conv_relu(b, f"{name}/b", y, width, 3, stride), out)
            else:
                y = b.conv(f"{name}/b", _conv_relu(b, f"{name}/a", x, width, 3, stride), out, 3)
            skip = x if b.shape(x) == b.shape(y) else b.conv(f"{name}/skip", x, out, 1, stride)
            x = b.activation(f"{name}/relu", b.add(f"{name}/add", y, skip))
    return _dense(b, b.global_average_pool("average", x), (1000,))


def densenet(blocks: tuple[int, ...], growth: int, start: int) -> Network:
    """Normalisations that stand after a concatenation stay nodes of their own."""
    b = _start()
    x = b.max_pool("pool", _conv_relu(b, "stem", INPUT, start, 7, 2), 3, 2, 1)
    for block, count in enumerate(blocks):
        made = [x]
        for i in range(count):
            name = f"block{block}/{i}"
            y = b.concat(f"{name}/concat", *made) if len(made) > 1 else made[0]
            y = _conv_relu(b, f"{name}/1", _normalised(b, name, y), 4 * growth, 1)
            made.append(b.conv(f"{name}/2", y, growth, 3))
        x = b.concat(f"block{block}/concat", *made)
        x = _normalised(b, f"block{block}/out", x)
        if block + 1 < len(blocks):
            x = b.conv(f"transition{block}", x, b.shape(x)[1] // 2)
            x = b.average_pool(f"transition{block}/pool", x, 2, 2)
    return _dense(b, b.global_average_pool("average", x), (1000,))


def _normalised(b: Builder, name: str, x: str) -> str:
    return b.activation(f"{name}/norm_relu", b.activation(f"{name}/norm", x, "BatchNormalization"))


_VGG = {"11": (1, 1, 2, 2, 2), "13": (2, 2, 2, 2, 2), "16": (2, 2, 3, 3, 3), "19": (2, 2, 4, 4, 4)}
_RESNET = {"18": (2, 2, 2, 2), "34": (3, 4, 6, 3), "50": (3, 4, 6, 3), "101": (3, 4, 23, 3), "152": (3, 8, 36, 3)}
_DENSENET = {
    "121": ((6, 12, 24, 16), 32, 64),
    "161": ((6, 12, 36, 24), 48, 96),
    "169": ((6, 12, 32, 32), 32, 64),
    "201": ((6, 12, 48, 32), 32, 64),
}
KNOWN: dict[str, Callable[[], Network]] = {
    "alexnet": alexnet,
    "squeezenet1_0": lambda: squeezenet("1_0"),
    "squeezenet1_1": lambda: squeezenet("1_1"),
    **{f"vgg{n}{bn}": lambda c=c: vgg(*c) for n, c in _VGG.items() for bn in ("", "_bn")},
    **{f"resnet{n}": lambda n=n, c=c: resnet(c, int(n) >= 50) for n, c in _RESNET.items()},
    **{f"densenet{n}": lambda c=c: densenet(*c) for n, c in _DENSENET.items()},
}


if __name__ == "__main__":
    main()
