"""What `edgenas devices` prints."""

from __future__ import annotations

import json
from collections.abc import Mapping

from edgenas import device
from edgenas.artifacts.device_spec import DETECTED, DeviceSpec
from edgenas.errors import InputError


def describe_all(as_json: bool) -> str:
    """A file of the user's that can't be read is one row that says why; the others are listed all the same."""
    specs, broken = [], {}
    for name in device.names():
        try:
            specs.append(device.load(name))
        except InputError as error:
            broken[name] = error.message
    if as_json:
        return json.dumps(
            [*(spec.model_dump() for spec in specs), *({"id": k, "error": v} for k, v in broken.items())], indent=2
        )
    rows = []
    for spec in specs:
        runtimes = ", ".join(f"{name} ({' '.join(spec.fast_precisions(name))})" for name in spec.runtimes)
        name = f"{spec.name} (yours)" if device.is_own(spec.id) else spec.name
        only = "; predict only" if spec.predict_only else ""
        rows.append((spec.id, name, runtimes + only, _tables(spec.id)))
    header = ("ID", "NAME", "RUNTIMES (FAST PRECISIONS)", "LATENCIES KNOWN")
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(4)]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in [header, *rows]]
    return "\n".join([*lines, *(f"{name}  can't be read: {text}" for name, text in broken.items())])


def describe_one(device_id: str, as_json: bool) -> str:
    spec = device.load(device_id)
    if as_json:
        return spec.model_dump_json(indent=2)
    lines = [f"{spec.id}: {spec.name}{' (your own file)' if device.is_own(spec.id) else ''}", spec.summary]
    if spec.predict_only:
        lines.append(f"Predict only: {spec.predict_only}")
    else:
        lines.append(f"Runs on --target {spec.target}" if spec.target else "Runs where --target says")
    lines.append("")
    for name, runtime in spec.runtimes.items():
        reads = (
            f"opset up to {runtime.opset_max}, IR up to {runtime.ir_version_max}" if runtime.opset_max else "no ONNX"
        )
        lines.append(f"{name}, version {runtime.version}; reads {reads}")
        for precision, found in runtime.precisions.items():
            note = f". {found.note}" if found.note else ""
            lines.append(f"  {precision}: {'fast' if found.fast else 'not fast'}{note}  [{found.source}]")
    lines += ["", *_hardware(spec)]
    lines += ["", "Good to know:"] if spec.facts else []
    lines += [f"  {fact.what}: {fact.value}  [{fact.source}]" for fact in spec.facts]
    lines += ["", "Latencies known:", *(_known(device_id) or ["  none yet"])]
    return "\n".join(lines)


def describe_new(device_id: str) -> str:
    """What to do with the file that `device.create` wrote."""
    is_copy = (device.shipped("devices") / f"{device_id}.yaml").is_file()
    what = (
        "It is a copy of the one that edgenas comes with, and is used instead." if is_copy else "It explains every key."
    )
    return f"{what} Edit it, then check it with `edgenas devices {device_id}`."


def _hardware(spec: DeviceSpec) -> list[str]:
    """A line each for the processor, the GPU and the peaks, as far as they are known, with their sources."""
    cpu, gpu = spec.cpu, spec.gpu
    detected = all(value == DETECTED for value in (cpu.name, cpu.arch, cpu.cores))
    what = "detected" if detected else f"{cpu.name}, {cpu.arch}, cores {cpu.cores}{_clock(cpu.clock_mhz)}"
    lines = [f"processor: {what}  [{cpu.source}]"]
    if gpu:
        what = f"{gpu.name}, {gpu.cores} cores{_clock(gpu.clock_mhz)}, compute capability {gpu.compute_capability}"
        lines.append(f"GPU: {what}  [{gpu.source}]")
    peaks = (
        (spec.peaks.gflops_fp32, "GFLOPS in FP32"),
        (spec.peaks.gflops_fp16, "GFLOPS in FP16"),
        (spec.peaks.gb_per_s, "GB/s"),
    )
    if known := [f"{value:g} {unit}" for value, unit in peaks if value]:
        lines.append(f"peaks: {', '.join(known)}  [{spec.peaks.source}]")
    ram = f"{spec.ram_mib} MiB" if isinstance(spec.ram_mib, int) else spec.ram_mib or "unknown"
    return [*lines, f"threads {spec.threads}, RAM {ram}"]


def _clock(mhz: int | None) -> str:
    return f", {mhz} MHz" if mhz else ""


def _known(device_id: str) -> list[str]:
    """Each table and calibration, with how well it predicts networks that it was not fitted on."""
    from edgenas.latency import calibration, table
    from edgenas.latency.stored import stored

    lines = []
    for each in stored(device_id):
        whose = "yours" if each.is_own else "shipped"
        if each.kind == "table":
            found = table.load(each.path)
            machine = f" on {found.meta.machine['cpu_name']}" if found.meta.machine.get("cpu_name") else ""
            lines.append(
                f"  {each.name}: table of {len(found.times)} kernels and {len(found.networks)} networks, measured with "
                f"{found.meta.runtime} {found.meta.runtime_version}{machine} ({whose})"
            )
        else:
            meta = calibration.load(each.path).meta
            lines.append(f"  {each.name}: calibrated with {meta.networks} whole networks ({whose})")
            lines.append(f"    {meta.source}")
            lines += [f"    {line}" for line in _left_out(meta.left_out)]
    return lines


def _left_out(figures: Mapping[str, float]) -> list[str]:
    lines = [
        f"networks left out: mean error {figures['mape_pct']:.1f} %, {figures['within_10pct']:.0%} within 10 %",
    ]
    families = {
        key.removeprefix("without ").removesuffix(": mape_pct"): value
        for key, value in figures.items()
        if key.startswith("without ") and key.endswith(": mape_pct")
    }
    if families:
        errors = ", ".join(f"{name} {value:.0f} %" for name, value in families.items())
        lines.append(
            f"whole families left out: mean error of {errors}; all of them inside the wider interval"
            if all(v == 1 for k, v in figures.items() if k.endswith("coverage_80"))
            else f"whole families left out: mean error of {errors}"
        )
    return lines


def _tables(device_id: str) -> str:
    from edgenas.latency.stored import stored

    kinds: dict[str, list[str]] = {}
    for each in stored(device_id):
        kinds.setdefault(each.kind, []).append(each.name)
    return "; ".join(f"{kind} {', '.join(names)}" for kind, names in kinds.items()) or "none yet"
