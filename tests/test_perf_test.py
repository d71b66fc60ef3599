"""ONNX Runtime's benchmark executable: its command line, and what versions of it print."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgenas.errors import TargetError
from edgenas.runtimes import perf_test

GOLDEN = Path(__file__).with_name("golden") / "perf_test"


def golden(name: str) -> str:
    return (GOLDEN / name).read_text(encoding="utf-8")


def test_the_command() -> None:
    words = perf_test.command("/data/local/tmp/p", "/m.onnx", "/r.csv", threads=1, repeats=50)
    assert " ".join(words) == "/data/local/tmp/p -I -e cpu -m times -r 50 -x 1 -y 1 /m.onnx /r.csv"
    more = perf_test.command("p", "m", "r", threads=4, repeats=5, profile_prefix="/t/prof")
    assert " ".join(more) == "p -I -e cpu -m times -r 5 -x 4 -y 1 -D -p /t/prof m r"


def test_the_output_of_2019() -> None:
    found = perf_test.parse_output(golden("readme_2019.txt"))
    assert (found.run_count, found.average_ms) == (1000, 58.8053)
    assert (found.session_creation_s, found.first_inference_ms, found.cpu_pct, found.peak_rss_mib) == (None,) * 4
    assert list(found.percentiles_ms) == ["Min", "Max", "P50", "P90", "P95", "P99", "P999"]
    assert found.percentiles_ms["P50"] == pytest.approx(58.7108)


def test_the_output_of_2026() -> None:
    found = perf_test.parse_output(golden("spacemit_2026.txt"))
    assert (found.run_count, found.average_ms, found.session_creation_s) == (10, 7.270205, 0.169475)
    assert (found.first_inference_ms, found.cpu_pct) == (109, 62)
    assert found.peak_rss_mib == pytest.approx(87.1, abs=0.01)
    assert found.percentiles_ms["P99"] == pytest.approx(7.30163)


@pytest.mark.parametrize("name", ["result_5_columns.csv", "result_6_columns.csv"])
def test_the_rows_of_a_result_file(name: str) -> None:
    assert perf_test.parse_result_file(golden(name)) == [14_491_200, 14_450_300, 14_498_700]


def test_of_a_file_that_was_added_to_the_last_benchmark_counts() -> None:
    text = golden("result_5_columns.csv") + "squeezenet,0.001,1,2,0\n"
    assert perf_test.parse_result_file(text) == [1_000_000]


@given(
    st.text(st.characters(exclude_categories=["C", "Z"])),
    st.lists(st.integers(1, 10**12), min_size=1, max_size=20),
    st.booleans(),
)
def test_rows_of_any_folder_name(folder: str, nanoseconds: list[int], submission: bool) -> None:
    rows = [
        f"{folder},{'0.0001,' if submission else ''}{ns / 1e9!r},12345678,68,{run}"
        for run, ns in enumerate(nanoseconds)
    ]
    assert perf_test.parse_result_file("\n".join(rows)) == nanoseconds


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no runs"),
        ("failed to open", "no runs"),
        ("m,0.1,1,2,1\n", "run 1 where run 0 was due"),
        ("m,0.1,1,2,0\nm,0.1,1,2,2\n", "run 2 where run 1 was due"),
        ("m,x,1,2,0\n", "a row that is none"),
    ],
)
def test_a_broken_result_file(text: str, message: str) -> None:
    with pytest.raises(TargetError, match=message):
        perf_test.parse_result_file(text)


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ("ERROR: Unknown command line flag 'I'\n", "ABSL_FLAGS_STRIP_NAMES=0"),
        ("TestCase.cc:705 OnnxTestCase::OnnxTestCase test case dir doesn't exist\n", "1.18"),
        ("perf_test [options...] model_path [result_file]\nOptions:\n", "printed its usage"),
        ('CANNOT LINK EXECUTABLE "./p": library "libonnxruntime.so" not found\n', "libonnxruntime.so"),
        (
            "Setting intra_op_num_threads to 1\nLoad model from m.onnx failed:Protobuf parsing failed.\n",
            "Protobuf parsing",
        ),
        ("Run failed:failed to initialize.\n", "Run failed:failed to initialize."),
        ("Segmentation fault\n", "Segmentation fault"),
        ("", "printed nothing"),
    ],
)
def test_why_it_failed(output: str, reason: str) -> None:
    assert reason in perf_test.problem(output)
    with pytest.raises(TargetError) as raised:
        perf_test.parse_output(output)
    assert reason in raised.value.hint
