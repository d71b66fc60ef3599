"""The command line: parses, calls one function, prints. Results to standard output, progress and errors to standard error."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from edgenas import __version__
from edgenas.errors import EdgenasError


class _Positive(click.ParamType):
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


class _Shape(click.ParamType):
    """Sides joined with x, batch first: 1x3x224x224."""

    name = "shape"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        sides = str(value).split("x")
        if not all(side.isdecimal() and int(side) > 0 for side in sides):
            self.fail(f"expected sides such as 1x3x224x224, but got {value!r}", param, ctx)
        return tuple(map(int, sides))


POSITIVE = _Positive()
DEVICE = click.option("--device", required=True, metavar="ID", help="A device; `edgenas devices` lists them.")
TARGET = click.option("--target", metavar="T", help="Where to measure: local (this machine).")
DATA = click.option(
    "--data",
    metavar="D",
    help="An image folder, fashion-mnist[:FOLDER], or package.module:function giving a torch dataset. "
    "Default: a bundled sample of Fashion-MNIST.",
)
THREADS = click.option("--threads", type=click.IntRange(1), help="Threads of the runtime. Default: the device's (one).")
SEED = click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
EFFORT = click.option(
    "--effort", type=click.Choice(["quick", "standard", "max"]), default="standard", show_default=True
)
JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="edgenas")
def cli() -> None:
    """From a dataset, a device and a budget to a model that is measured to fit."""


@cli.command()
@DEVICE
@TARGET
@DATA
@click.option("--latency-ms", type=POSITIVE, help="Budget for the measured p50. Default: half of the largest subnet's.")
@click.option(
    "--max-accuracy-drop",
    type=POSITIVE,
    default=1.0,
    show_default=True,
    help="Points of accuracy that INT8 may lose; pruning may lose half of it.",
)
@click.option("--max-minutes", type=POSITIVE, help="Stop the search after this time.")
@EFFORT
@THREADS
@SEED
@click.option("--out", type=click.Path(path_type=Path), default=Path("edgenas-build"), show_default=True, metavar="DIR")
@JSON
def build(device: str, out: Path, as_json: bool, **options: Any) -> None:
    """Build a model that is measured to meet the budget.

    Searches, trains, compresses, exports and measures; run again, it goes on where it stopped. Exit code 0: every budget
    met; 1: built, but a budget was not met; 2: bad input, or a budget that nothing in the space can meet.
    """
    from edgenas.pipeline.build import build as run
    from edgenas.pipeline.request import BuildRequest
    from edgenas.progress import Progress
    from edgenas.report.summary import summary

    result = run(BuildRequest(device=device, out=out, **options), Progress())
    click.echo(json.dumps(result, indent=2) if as_json else summary(result, out))
    if result["verdict"] == "not_met":
        sys.exit(1)


@cli.command()
@click.argument("device_id", required=False, metavar="[ID]")
@JSON
def devices(device_id: str | None, as_json: bool) -> None:
    """List the devices, or describe one with its sources."""
    from edgenas.report.devices import describe_all, describe_one

    click.echo(describe_one(device_id, as_json) if device_id else describe_all(as_json))


@cli.command()
@DEVICE
@TARGET
@DATA
@EFFORT
@THREADS
@SEED
@click.option(
    "--minutes", type=POSITIVE, help="Stop measuring after about this time. Default: when predictions are good."
)
@JSON
def profile(device: str, as_json: bool, **options: Any) -> None:
    """Measure the latency tables of a device.

    First the search space for such images: a build of the same effort and image size takes these measurements from here.
    Then generic networks, for `edgenas predict`: one table a precision in the user's folder. What is measured already is not
    measured again.
    """
    from edgenas.pipeline.profile_command import profile_device
    from edgenas.progress import Progress

    result = profile_device(device, Progress(), **options)
    if as_json:
        click.echo(json.dumps(result, indent=2))
    else:
        for table in result["tables"]:
            click.echo(
                f"{table['path']}  {table['kernels']} kernels; {table['n_held_out']} networks, each predicted without itself:"
            )
            click.echo(
                f"  mean error {table['mape_pct']:.1f} %, {table['within_10pct']:.0%} within 10 %, tau {table['kendall_tau']:.2f}"
            )


@cli.command()
@DEVICE
@click.option(
    "--measured",
    type=click.Path(path_type=Path),
    metavar="FILE.csv",
    help="Columns network (a path to an ONNX file, or an architecture string of a cell space) and ms.",
)
@click.option(
    "--suggest", "suggestions", type=click.IntRange(1), metavar="N", help="Say which N networks to measure next."
)
@click.option("--space", metavar="NAME", help="Suggest networks of this space, such as nas-bench-201.")
@click.option("--runtime", metavar="NAME", help="Default: the device's.")
@click.option("--precision", type=click.Choice(["fp32", "fp16", "int8"]), help="Default: fp32.")
@THREADS
@JSON
def calibrate(device: str, as_json: bool, **options: Any) -> None:
    """Fit a predictor to whole networks that were timed on a device.

    For a device that can't be profiled kernel by kernel; 20 to 50 networks will do. Where there is a latency table, they correct
    its predictor. Before the first measurement, --suggest N --space NAME says which networks tell most.
    """
    from edgenas.pipeline.calibrate_command import calibrate_device
    from edgenas.report.calibration import describe_calibration

    found = calibrate_device(device, **options)
    click.echo(json.dumps(found, indent=2) if as_json else describe_calibration(found))


@cli.command()
@click.argument("model", type=click.Path(path_type=Path), metavar="MODEL.onnx")
@DEVICE
@click.option("--precision", type=click.Choice(["fp32", "fp16", "int8"]), help="Default: the file's.")
@click.option("--runtime", help="Default: the device's.")
@click.option("--input-shape", type=_Shape(), metavar="1x3xHxW", help="For a file without fixed sides.")
@THREADS
@JSON
def predict(model: Path, device: str, as_json: bool, **options: Any) -> None:
    """Predict the latency of an ONNX file.

    With an 80 % interval, and with where it comes from: a latency table (`edgenas profile`) or a calibration (`edgenas calibrate`).
    """
    from edgenas.pipeline.predict_command import predict_file
    from edgenas.report.prediction import describe_prediction

    found = predict_file(model, device, **options)
    click.echo(json.dumps(found, indent=2) if as_json else describe_prediction(found))


@cli.command()
@click.argument("build_dir", type=click.Path(path_type=Path))
def report(build_dir: Path) -> None:
    """Write the HTML report of a build again."""
    from edgenas.report import write

    click.echo(str(write(build_dir)))


def main() -> None:
    """Entry point: an error of ours is one or two lines and an exit code, never a traceback."""
    try:
        _run(cli)
    except EdgenasError as error:
        click.echo(f"error: {error.message}", err=True)
        if error.hint:
            click.echo(f"  {error.hint}", err=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        click.echo("stopped; run the same command again to go on from here", err=True)
        sys.exit(130)


def _run(command: Callable[..., Any]) -> None:
    try:
        command(standalone_mode=False)
    except click.exceptions.Exit as done:
        sys.exit(done.exit_code)
    except click.Abort:
        raise KeyboardInterrupt from None
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
