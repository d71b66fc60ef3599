"""`onnxruntime_perf_test`, ONNX Runtime's benchmark executable, for devices without Python: its command line and what it prints.

Read from its source, https://github.com/microsoft/onnxruntime/tree/main/onnxruntime/test/perftest. It warms up with one run, so
the first samples are for the caller to drop, and writes six significant digits. It comes with no release; a user builds it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from edgenas.errors import TargetError

REMEDY = (
    "Build onnxruntime_perf_test for Android from ONNX Runtime's sources, and push it: adb push onnxruntime_perf_test "
    "/data/local/tmp (with libonnxruntime.so, if it needs one). If it is elsewhere: adb:SERIAL?perf_test=PATH."
)
NUMBER = r"([-+.\deE]*\d)"


@dataclass(frozen=True)
class Summary:
    """What it prints on standard output. None is what its version does not print."""

    run_count: int
    average_ms: float
    session_creation_s: float | None
    first_inference_ms: float | None
    cpu_pct: float | None  # of all cores
    peak_rss_mib: float | None
    percentiles_ms: dict[str, float]  # "Min", "Max", "P50", "P90", "P95", "P99", "P999"


def command(
    executable: str,
    model: str,
    result_file: str,
    *,
    threads: int,
    repeats: int,
    profile_prefix: str | None = None,
    provider: str = "cpu",
) -> list[str]:
    """`repeats` runs on the CPU with random inputs; `provider` "xnnpack" for those kernels where it has them. Rows are *added* to
    `result_file`, so it should be a new one. With `profile_prefix` a profile is written, whose name starts with it."""
    options = ["-I", "-e", provider, "-m", "times", "-r", str(repeats), "-x", str(threads), "-y", "1"]
    if threads > 1:
        options += ["-D"]  # threads that wait for work don't spin
    if profile_prefix is not None:
        options += ["-p", profile_prefix]
    return [executable, *options, model, result_file]


def parse_result_file(text: str) -> list[int]:
    """Nanoseconds of each run; of the last benchmark if several were added to the file.

    A row is `model,seconds,peak memory,CPU usage,run`. Newer versions have the seconds to submit the run before those to finish it.
    """
    samples: list[int] = []
    for line in text.splitlines():
        fields = line.rsplit(",", 4)
        if len(fields) < 5:
            continue  # statistics
        try:
            seconds, run = float(fields[-4]), int(fields[-1])
        except ValueError:
            raise TargetError(f"onnxruntime_perf_test wrote a row that is none: {line!r}") from None
        if run == 0:
            samples = []
        if run != len(samples):
            raise TargetError(f"onnxruntime_perf_test wrote run {run} where run {len(samples)} was due")
        samples.append(round(seconds * 1e9))
    if not samples:
        raise TargetError("onnxruntime_perf_test wrote no runs into its result file")
    return samples


def parse_output(text: str) -> Summary:
    """Standard output; what versions print differs in words and in spaces."""
    run_count = _find(text, "Total (?:iterations|inference requests)")
    average_ms = _find(text, "Average (?:inference )?time cost(?: total)?")
    if run_count is None or average_ms is None:
        raise TargetError("onnxruntime_perf_test gave no summary", problem(text))
    peak_bytes = _find(text, "Peak working set size")
    percentiles = re.findall(rf"^\s*(Min|Max|P\d+) Latency(?: is|:) {NUMBER} ?s", text, re.MULTILINE)
    return Summary(
        run_count=int(run_count),
        average_ms=average_ms,
        session_creation_s=_find(text, "Session creation time cost"),
        first_inference_ms=_find(text, "First inference time cost"),
        cpu_pct=_find(text, "Avg CPU usage"),
        peak_rss_mib=None if peak_bytes is None else peak_bytes / 2**20,
        percentiles_ms={name: float(seconds) * 1e3 for name, seconds in percentiles},
    )


def problem(output: str) -> str:
    """One sentence on why it failed, from both of its outputs."""
    if re.search("Unknown command line flag|invalid option|unrecognized option", output):
        # https://github.com/microsoft/onnxruntime/issues/25755
        return (
            "It does not know an option that it was given. Builds for Android of mid-2025 know none of their own: "
            "build one with ABSL_FLAGS_STRIP_NAMES=0, or take another version."
        )
    if "test case dir doesn't exist" in output:
        # https://github.com/microsoft/onnxruntime/issues/21267
        return "It wants a folder of test data though inputs are random, as version 1.18 does; take another version."
    if "perf_test [options...]" in output:
        return "It printed its usage: it is too old, or too new, for the options it was given."
    if "CANNOT LINK EXECUTABLE" in output or "error while loading shared libraries" in output:
        return "It lacks libonnxruntime.so; push it to the same folder, or build without --build_shared_lib."
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    telling = [line for line in lines if re.search(r"Run failed|failed|[Ee]rror|[Ee]xception|no test", line)]
    return (telling or lines or ["It printed nothing."])[-1]


def _find(text: str, label: str) -> float | None:
    found = re.search(rf"^\s*{label}: ?{NUMBER}", text, re.MULTILINE)
    return float(found[1]) if found else None
