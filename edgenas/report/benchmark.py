"""What `edgenas bench` prints."""

from __future__ import annotations

from typing import Any


def describe_benchmark(found: dict[str, Any]) -> str:
    measured, predicted, accuracy = found["measured"], found["predicted"], found["accuracy"]
    threads = f"{found['threads']} thread{'' if found['threads'] == 1 else 's'}"
    where = f"{found['device']} ({found['target']}), {found['runtime']} {found['runtime_version']}, {threads}"
    lines = [
        f"{found['model']}: p50 {measured['p50_ms']:.3g} ms, p90 {measured['p90_ms']:.3g}, p99 {measured['p99_ms']:.3g} "
        f"({measured['provenance']}, {found['precision']}, {measured['n']:,} runs)",
        f"  on {where}",
    ]
    if found["strict"]:
        lines.append(f"  strict (at least 1,024 queries and 60 s): 90th percentile {measured['p90_ms']:.4g} ms")
    if predicted:
        off = measured["p50_ms"] / predicted["latency_ms"] - 1
        lines.append(
            f"  predicted {predicted['latency_ms']:.3g} ms, {predicted['low_ms']:.3g} to {predicted['high_ms']:.3g} "
            f"({predicted['provenance']}): measured is {off:+.1%} of that"
        )
    if measured["process_peak_mib"]:
        lines.append(f"  process peak {measured['process_peak_mib']:.0f} MiB")
    if measured["energy_mj"] is not None:
        lines.append(f"  {measured['energy_mj']:.3g} mJ a run ({measured['energy_source']}, idle power included)")
    if accuracy:
        lines.append(f"  top-1 {accuracy['top1']:.2%}, balanced {accuracy['balanced']:.2%} on {accuracy['n']:,} images")
    return "\n".join([*lines, *(f"  warning: {text}" for text in measured["warnings"])])
