"""The options that commands share, and what their values have to look like."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from edgenas.nets.proxy_names import NAMES
from edgenas.search.strategies import DEFAULT, names


class Positive(click.ParamType):
    """A number above zero, in the unit of the option's name."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            number = float(value)
        except ValueError:
            self.fail(f"expected a number such as 0.5, but got {value!r}", param, ctx)
        if not math.isfinite(number) or number <= 0:
            self.fail(f"expected a number above zero, but got {value!r}", param, ctx)
        return number


class OfDevice(click.ParamType):
    """A value, or ID=VALUE where there are several devices: (id or None, value)."""

    def __init__(self, of: click.ParamType) -> None:
        self.of, self.name = of, of.name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str | None, Any]:
        from edgenas.pipeline.device_options import split

        device, text = split(str(value))
        return device, self.of.convert(text, param, ctx)


class Shape(click.ParamType):
    """Sides joined with x, batch first: 1x3x224x224."""

    name = "shape"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        sides = str(value).split("x")
        if not all(side.isdecimal() and int(side) > 0 for side in sides):
            self.fail(f"expected sides such as 1x3x224x224, but got {value!r}", param, ctx)
        return tuple(map(int, sides))


POSITIVE = Positive()
DEVICE = click.option("--device", required=True, metavar="ID", help="A device; `edgenas devices` lists them.")
TARGET = click.option(
    "--target", metavar="T", help="Where the device is: local, ssh://user@host[:port], adb:SERIAL, emulated:aarch64."
)


def devices_option(several: str) -> Callable[[Any], Any]:
    return click.option(
        "--device",
        "devices",
        multiple=True,
        required=True,
        metavar="ID",
        help=f"A device; `edgenas devices` lists them. Repeat it for several: {several}.",
    )


DEVICES = devices_option("a network fits all of them, and the report is on the first")
DEVICES_APART = devices_option("each gets its own tables")
TARGETS = click.option(
    "--target",
    "targets",
    type=OfDevice(click.STRING),
    multiple=True,
    metavar="[ID=]T",
    help="Where the device is: local, ssh://user@host[:port], adb:SERIAL, emulated:aarch64.",
)
RUNTIME = click.option("--runtime", metavar="NAME", help="onnxruntime or tensorrt. Default: the device's.")
PRECISION = click.option("--precision", type=click.Choice(["fp32", "fp16", "int8"]), help="Default: the file's.")
DATA = click.option(
    "--data",
    metavar="D",
    help="An image folder, fashion-mnist[:FOLDER], or package.module:function giving a torch dataset. "
    "Default: a bundled sample of Fashion-MNIST.",
)


def space_option(default: str) -> Callable[[Any], Any]:
    return click.option(
        "--space",
        metavar="NAME|FILE.yaml",
        help=f"The search space, or a file of its settings such as a build's space.yaml. Default: {default}.",
    )


SPACE = space_option("mobile, or slim with --model")
SPACE_OF_IMAGES = space_option("mobile")
MODEL = click.option(
    "--model",
    metavar="M",
    help="package.module:function giving a trained torch module of your own, to be made as small as the budget asks.",
)
THREADS = click.option("--threads", type=click.IntRange(1), help="Threads of the runtime. Default: the device's (one).")
SEED = click.option(
    "--seed",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Of all that is drawn: the same gives the same.",
)
NPROC = click.option(
    "--nproc",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Processes that train the supernet together. For several machines: torchrun ... -m edgenas build ...",
)
EXECUTOR = click.option(
    "--executor",
    metavar="NAME",
    default="local",
    show_default=True,
    help="What evaluates candidates and trains the best of them: local (this process), ray (processes of this machine, one a "
    "processor; extra `cluster`), or ray:HOST:PORT (a Ray cluster that reads and writes --out under the same path).",
)
TASK_THREADS = click.option(
    "--task-threads",
    type=click.IntRange(1),
    help="Threads of each such task. The same number gives the same results with every executor. Default: torch's for local, else 1.",
)
EFFORT = click.option(
    "--effort",
    type=click.Choice(["quick", "standard", "max"]),
    default="standard",
    show_default=True,
    help="How much is measured, searched and trained, and the largest side of images: 64, 128 or 224 px.",
)
JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
BUDGETS = (
    click.option(
        "--latency-ms",
        type=OfDevice(POSITIVE),
        multiple=True,
        metavar="[ID=]NUMBER",
        help="Budget for the measured p50. Default: half of the largest subnet's or, without a target, what a quarter of the networks "
        "are predicted to meet. Of several devices each needs one.",
    ),
    click.option("--size-mib", type=POSITIVE, help="Budget for the model file."),
    click.option("--peak-memory-mib", type=POSITIVE, help="Budget for the activations' peak, computed from the graph."),
    click.option("--macs-m", type=POSITIVE, help="Budget for the multiply-accumulates of one image, in millions."),
    click.option("--params-m", type=POSITIVE, help="Budget for the parameters, in millions."),
    click.option(
        "--energy-mj",
        type=POSITIVE,
        help="Budget for the measured energy of one run of the finished file, on a device that can tell.",
    ),
)
OBJECTIVE = click.option(
    "--objective",
    type=click.Choice(["accuracy", "loss"]),
    default="accuracy",
    show_default=True,
    help="What the search is for: the highest validation accuracy, or the lowest validation loss.",
)
STRATEGY = click.option(
    "--strategy",
    type=click.Choice(names()),
    default=DEFAULT,
    show_default=True,
    help="How the search chooses what to evaluate.",
)
WARM_START = click.option(
    "--warm-start",
    type=click.Choice(NAMES),
    help="Half of what is explored first are not random subnets but the best of many by this zero-cost proxy; whether that helped is "
    "said afterwards. Default: all are random.",
)
MAX_MINUTES = click.option("--max-minutes", type=POSITIVE, help="Stop the search after this time.")
OUT = click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("edgenas-build"),
    show_default=True,
    metavar="DIR",
    help="Where all of it goes, and what is found there is gone on from.",
)


def together(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Several options as one, in their order."""
    return lambda command: functools.reduce(lambda decorated, option: option(decorated), reversed(options), command)


# of a search and of a build: what for, and with how much effort
WHAT_FOR = together(DEVICES, TARGETS, RUNTIME, DATA, SPACE, MODEL, OBJECTIVE, *BUDGETS)
HOW = together(STRATEGY, WARM_START, MAX_MINUTES, EFFORT, NPROC, EXECUTOR, TASK_THREADS, THREADS, SEED, OUT, JSON)
