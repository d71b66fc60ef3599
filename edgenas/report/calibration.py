"""What `edgenas calibrate` prints."""

from __future__ import annotations

from typing import Any

READINGS = {
    "live": "dead branches and what is computed from zeros removed",
    "reachable": "what never reaches the output removed; operations that are fed zeros run",
    "as_written": "nothing removed",
}


def describe_calibration(found: dict[str, Any]) -> str:
    """The fit and how far it can be trusted; nothing where there was nothing to fit."""
    lines = []
    place = f"{found['precision']} on {found['device']}, {found['runtime']}"
    if found["left_out"]:
        lines.append(f"left out, because the output doesn't depend on the input: {len(found['left_out'])} networks")
    if "method" in found:
        error = found["error"]
        lines.append(f"{place}: {found['path']}")
        if found["method"] == "table":
            lines.append(f"{found['networks_used']} networks correct the predictor of the table")
            lines.append(f"mean error on them {error['mape_pct']:.1f} %, {error['within_10pct']:.0%} within 10 %")
        else:
            lines += _of_fit(found)
    if "method" in found and "suggested" not in found:
        lines.append("For a closer fit, let it say which networks tell most: add --suggest 20 --space nas-bench-201.")
    return "\n".join(lines)


def suggested_csv(found: dict[str, Any]) -> str:
    """What to measure next, as a file that --measured reads once the ms stand behind the commas."""
    return "\n".join(["network,ms", *(f"{_quoted(text)}," for text in found["suggested"])])


def _of_fit(found: dict[str, Any]) -> list[str]:
    error, domain = found["error"], found["domain"]
    others = ", ".join(f"{name} {value:.1%}" for name, value in found["readings"].items())
    return [
        f"{found['networks']} networks of {domain['low_ms']:.3g} to {domain['high_ms']:.3g} ms; each predicted by a fit without it: "
        f"mean error {error['mape_pct']:.1f} %, {error['within_5pct']:.0%} within 5 %, {error['within_10pct']:.0%} within 10 %",
        f"graphs read as {found['reading']}: {READINGS[found['reading']]} (error by reading: {others})",
        f"applies to networks of the same kernels: {', '.join(domain['families'])}",
    ]


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if "," in text or '"' in text else text
