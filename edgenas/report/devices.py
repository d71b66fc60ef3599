"""What `edgenas devices` prints."""

from __future__ import annotations

import json
from collections.abc import Mapping

from edgenas import device


def describe_all(as_json: bool) -> str:
    specs = [device.load(name) for name in device.names()]
    if as_json:
        return json.dumps([spec.model_dump() for spec in specs], indent=2)
    rows = []
    for spec in specs:
        runtimes = ", ".join(f"{name} ({' '.join(spec.fast_precisions(name))})" for name in spec.runtimes)
        rows.append((spec.id, spec.name, runtimes, _tables(spec.id)))
    header = ("ID", "NAME", "RUNTIMES (FAST PRECISIONS)", "LATENCIES KNOWN")
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(4)]
    return "\n".join(
        "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in [header, *rows]
    )


def describe_one(device_id: str, as_json: bool) -> str:
    spec = device.load(device_id)
    if as_json:
        return spec.model_dump_json(indent=2)
    lines = [f"{spec.id}: {spec.name}", spec.summary, ""]
    for name, runtime in spec.runtimes.items():
        lines.append(f"{name} {runtime.version}, opset up to {runtime.opset_max}, IR up to {runtime.ir_version_max}")
        for precision, found in runtime.precisions.items():
            note = f". {found.note}" if found.note else ""
            lines.append(f"  {precision}: {'fast' if found.fast else 'not fast'}{note}  [{found.source}]")
    lines += [
        "",
        f"threads {spec.threads}, RAM {spec.ram_mib or 'unknown'}" + (" MiB" if isinstance(spec.ram_mib, int) else ""),
    ]
    lines += [f"{fact.what}: {fact.value}  [{fact.source}]" for fact in spec.facts]
    lines += ["", "Latencies known:", *(_known(device_id) or ["  none yet"])]
    return "\n".join(lines)


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

    return ", ".join(f"{each.name} ({each.kind})" for each in stored(device_id)) or "none yet"
