"""What `edgenas devices` prints."""

from __future__ import annotations

import json

from edgenas import device


def describe_all(as_json: bool) -> str:
    specs = [device.load(name) for name in device.names()]
    if as_json:
        return json.dumps([spec.model_dump() for spec in specs], indent=2)
    rows = []
    for spec in specs:
        runtimes = ", ".join(f"{name} ({' '.join(spec.fast_precisions(name))})" for name in spec.runtimes)
        rows.append((spec.id, spec.name, runtimes, _tables(spec.id)))
    header = ("ID", "NAME", "RUNTIMES (FAST PRECISIONS)", "LATENCY TABLES")
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
    lines += ["", f"Latency tables: {_tables(device_id)}"]
    return "\n".join(lines)


def _tables(device_id: str) -> str:
    folders = (device.user_folder("latency_tables") / device_id, device.shipped("latency_tables") / device_id)
    found = sorted({path.stem for folder in folders for path in folder.glob("*.csv")})
    return ", ".join(found) if found else "none yet"
