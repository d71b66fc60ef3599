"""The command line: parses, calls one function, prints. Results to standard output, progress and errors to standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgenas import __version__
from edgenas.cli_options import (
    DATA,
    DEVICE,
    DEVICES_APART,
    EFFORT,
    HOW,
    JSON,
    POSITIVE,
    PRECISION,
    RUNTIME,
    SEED,
    SPACE_OF_IMAGES,
    TARGET,
    TARGETS,
    THREADS,
    WHAT_FOR,
    Shape,
)
from edgenas.errors import EdgenasError

if TYPE_CHECKING:
    from edgenas.pipeline.request import BuildRequest


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="edgenas")
def cli() -> None:
    """From a dataset, a device and a budget to a model that is measured to fit."""


@cli.command()
@WHAT_FOR
@click.option(
    "--max-accuracy-drop",
    type=POSITIVE,
    default=1.0,
    show_default=True,
    help="Points of accuracy that INT8 may lose; pruning may lose half of it.",
)
@HOW
def build(
    devices: tuple[str, ...], latency_ms: list[Any], targets: list[Any], out: Path, as_json: bool, **options: Any
) -> None:
    """Build a model that is measured to meet the budget.

    Searches, trains, compresses, exports and measures; run again, it goes on where it stopped. Exit code 0: every budget
    met, or no target to measure on; 1: built, but a budget was not met, or something else failed, which is said;
    2: bad input, or a budget that nothing can meet; 130: stopped by Ctrl-C.
    """
    from edgenas.pipeline.build import build as run
    from edgenas.progress import Progress
    from edgenas.report.summary import summary

    if _only_trains():
        return
    result = run(_request(devices, latency_ms, targets, out, options), Progress())
    click.echo(json.dumps(result, indent=2) if as_json else summary(result, out))
    if result["verdict"] == "not_met":
        sys.exit(1)


@cli.command()
@WHAT_FOR
@click.option(
    "--explain",
    is_flag=True,
    help="Also say how well zero-cost proxies rank what was evaluated in this run, and write them into front.json.",
)
@HOW
def search(
    devices: tuple[str, ...],
    latency_ms: list[Any],
    targets: list[Any],
    out: Path,
    as_json: bool,
    explain: bool,
    **options: Any,
) -> None:
    """Search for the networks that fit the budget best, and stop there.

    What build does before it trains a winner: writes the Pareto front as front.json and front.html, and every evaluation into
    evaluations.jsonl. Where there is a target, the best candidate is measured there with random weights; if it takes another
    time than predicted, the predictor is corrected and the search made again, as in build. A build with the same options and
    --out goes on from here. Exit code 0: done; 1: something failed, such as the device; 2: bad input, or a budget that
    nothing can meet.
    """
    from edgenas.pipeline.search_command import search as run
    from edgenas.progress import Progress
    from edgenas.report.explained import describe_explained
    from edgenas.report.front_summary import front_summary

    if _only_trains():
        return
    front = run(_request(devices, latency_ms, targets, out, options), Progress(), explain=explain)
    click.echo(json.dumps(front, indent=2) if as_json else front_summary(front, out))
    if explain and not as_json:
        click.echo("\n" + describe_explained(front["explain"]))


@cli.command()
@click.argument("device_id", required=False, metavar="[ID]")
@click.option("--new", "new_id", metavar="ID", help="Write a commented file for a device of your own.")
@JSON
def devices(device_id: str | None, new_id: str | None, as_json: bool) -> None:
    """List the devices, describe one with its sources, or start one of your own."""
    from edgenas.report.devices import describe_all, describe_new, describe_one

    if new_id is None:
        click.echo(describe_one(device_id, as_json) if device_id else describe_all(as_json))
    elif device_id is not None or as_json:
        raise click.UsageError("--new stands alone: edgenas devices --new ID")
    else:
        from edgenas.device import create

        path = create(new_id)
        click.echo(str(path))
        click.echo(describe_new(new_id), err=True)


@cli.command()
@DEVICES_APART
@TARGETS
@RUNTIME
@DATA
@SPACE_OF_IMAGES
@EFFORT
@THREADS
@SEED
@click.option(
    "--minutes", type=POSITIVE, help="Stop measuring after about this time. Default: when predictions are good."
)
@JSON
def profile(devices: tuple[str, ...], targets: list[Any], as_json: bool, **options: Any) -> None:
    """Measure the latency tables of a device, or of several at once.

    First the search space for such images: a build of the same effort and image size takes these measurements from here.
    Then generic networks, for `edgenas predict`: one table a precision in the user's folder. What is measured already is not
    measured again. Devices that are different machines are measured at the same time; this machine is measured alone, before them.
    """
    from edgenas.pipeline.device_options import targets_of
    from edgenas.pipeline.profile_command import profile_devices
    from edgenas.progress import Progress

    of_one = {"--runtime": options["runtime"], "--threads": options["threads"]}
    found = profile_devices(targets_of(devices, targets, of_one), Progress(), **options)
    results = [result for result in found if not isinstance(result, Exception)]
    if as_json and results:
        click.echo(json.dumps(results[0] if len(devices) == 1 else {"devices": results}, indent=2))
    elif not as_json:
        for result in results:
            _show_tables(result)
    failed = [(device, error) for device, error in zip(devices, found, strict=True) if isinstance(error, Exception)]
    for device, error in failed[1:]:
        click.echo(f"error: {device}: {error}", err=True)
    if failed:
        raise failed[0][1]


def _show_tables(result: dict[str, Any]) -> None:
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
@click.option(
    "--write",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Write what is suggested as ONNX files, to be timed.",
)
@RUNTIME
@click.option("--precision", type=click.Choice(["fp32", "fp16", "int8"]), help="Default: fp32.")
@THREADS
@JSON
def calibrate(device: str, as_json: bool, **options: Any) -> None:
    """Fit a predictor to whole networks that were timed on a device.

    For a device that can't be profiled kernel by kernel; 20 to 50 networks will do. Where there is a latency table, they correct
    its predictor. Before the first measurement, --suggest N --space NAME says which networks tell most,
    and --write DIR makes files of them.
    """
    from edgenas.pipeline.calibrate_command import calibrate_device
    from edgenas.report.calibration import describe_calibration, suggested_csv

    found = calibrate_device(device, **options)
    if as_json:
        click.echo(json.dumps(found, indent=2))
    elif "suggested" not in found:
        click.echo(describe_calibration(found))
    else:  # the file alone goes to standard output
        if description := describe_calibration(found):
            click.echo(description, err=True)
        click.echo(
            f"Measure these on {device}, write the ms behind the commas, and run again with --measured.", err=True
        )
        click.echo(suggested_csv(found))


@cli.command()
@click.argument("model", type=click.Path(path_type=Path), metavar="MODEL.onnx")
@DEVICE
@PRECISION
@RUNTIME
@click.option("--input-shape", type=Shape(), metavar="1x3xHxW", help="For a file without fixed sides.")
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
@click.argument("model", type=click.Path(path_type=Path), metavar="MODEL.onnx")
@DEVICE
@TARGET
@RUNTIME
@PRECISION
@click.option("--data", metavar="D", help="Also the accuracy on the test part of this data, as for build.")
@click.option("--strict", is_flag=True, help="As MLPerf's single stream: 1,024 queries and 60 s at least.")
@THREADS
@JSON
def bench(model: Path, device: str, as_json: bool, **options: Any) -> None:
    """Measure an ONNX file on a device.

    Beside what is predicted for it, where something is known of the device.
    """
    from edgenas.pipeline.bench_command import bench_file
    from edgenas.progress import Progress
    from edgenas.report.benchmark import describe_benchmark

    found = bench_file(model, device, Progress(), **options)
    click.echo(json.dumps(found, indent=2) if as_json else describe_benchmark(found))


@cli.command()
@click.option(
    "--target", metavar="T", help="A device to look at as well: ssh://user@host, adb:SERIAL, emulated:aarch64."
)
@JSON
def doctor(target: str | None, as_json: bool) -> None:
    """Say what this machine, and a target, have and lack, and how to mend it.

    Exit code 1 if something that is needed is missing.
    """
    from edgenas.doctor import describe, examine, is_fit

    found = examine(target)
    click.echo(json.dumps([line.to_json() for line in found], indent=2) if as_json else describe(found))
    if not is_fit(found):
        sys.exit(1)


@cli.command()
@click.argument("build_dir", type=click.Path(path_type=Path))
@click.option(
    "--add",
    "measured",
    type=click.Path(path_type=Path),
    metavar="FILE.json",
    help="Take in what was measured on the device: the output of on_device.py or `edgenas bench --json`.",
)
def report(build_dir: Path, measured: Path | None) -> None:
    """Write the HTML report of a build again."""
    from edgenas.report import write
    from edgenas.report.added import add

    if measured is not None:
        click.echo(f"measured now: {', '.join(add(build_dir, measured))}", err=True)
    click.echo(str(write(build_dir)))


def _only_trains() -> bool:
    """Of the processes that torchrun started, the first does what the command says; the others take part in its training, and are done
    then."""
    from edgenas.supernet.torchrun import is_extra_process

    if not is_extra_process():
        return False
    from edgenas.supernet.worker import serve_torchrun

    serve_torchrun()
    return True


def _request(
    devices: tuple[str, ...], latency_ms: list[Any], targets: list[Any], out: Path, options: dict[str, Any]
) -> BuildRequest:
    """What was asked for with build's options."""
    from edgenas.pipeline.device_options import of_devices
    from edgenas.pipeline.request import BuildRequest

    of_one = {"--runtime": options["runtime"], "--threads": options["threads"]}
    return BuildRequest(out=out, **of_devices(devices, latency_ms, targets, of_one), **options)


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
