"""What `edgenas predict` prints."""

from __future__ import annotations

from typing import Any

SHOWN = 8
SOURCES = {
    "table": "measured kernels",
    "model": "kernels like measured ones",
    "formula": "bytes and MACs alone",
}


def describe_prediction(found: dict[str, Any]) -> str:
    """The estimate, what it rests on, and the kernels that take the most time."""
    rows = sorted(found["kernels"], key=lambda row: -float(row["ms"]))
    total = sum(float(row["ms"]) for row in rows) or 1.0
    shares = [f"{share:.0%} {SOURCES[source]}" for source, share in found["share"].items() if share >= 0.005]
    threads = f"{found['threads']} thread{'s' if found['threads'] > 1 else ''}"
    lines = [
        f"{found['latency_ms']:.3g} ms, {found['low_ms']:.3g} to {found['high_ms']:.3g} with 80 % confidence ({found['provenance']})",
        f"{found['precision']} on {found['device']}, {found['runtime']}, {threads}",
        f"{found['macs'] / 1e6:.4g} M MACs" + (f" in {len(rows)} kernels" if rows else ""),
        f"From {', '.join(shares)}." if rows else f"From whole networks timed on the device ({found['path']}).",
        *(f"note: {note}" for note in found["notes"]),
    ]
    if not rows:
        return "\n".join(lines)
    lines += [
        "",
        f"{'KERNEL':34}{'IN':>14}{'OUT':>14}{'SHARE':>8}  FROM",
    ]
    for row in rows[:SHOWN]:
        name = "+".join(part for part in (row["op"], row["fused"]) if part)
        window = f" {row['kernel_size_hw']}/{row['stride_hw'].split('x')[0]}" if row["kernel_size_hw"] != "0x0" else ""
        groups = f" g{row['groups']}" if row["groups"] != "1" else ""
        label = f"{name}{window}{groups}"[:33]
        lines.append(
            f"{label:34}{row['in_shape']:>14}{row['out_shape']:>14}{float(row['ms']) / total:>8.1%}  {row['source']}"
        )
    if len(rows) > SHOWN:
        rest = sum(float(row["ms"]) for row in rows[SHOWN:]) / total
        lines.append(f"{f'{len(rows) - SHOWN} more':34}{'':28}{rest:>8.1%}")
    return "\n".join(lines)
