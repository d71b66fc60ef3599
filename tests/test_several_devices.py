"""One network for several devices at once: this machine, a device that is this machine in FP32 alone, and a board that isn't there."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest

from edgenas import device
from edgenas.artifacts.verdict import of_all
from edgenas.errors import InfeasibleBudget, InputError
from edgenas.pipeline import other_devices
from edgenas.pipeline.build import build
from edgenas.pipeline.context import opened_build
from edgenas.pipeline.device_options import of_devices, split
from edgenas.pipeline.other_devices import known_others
from edgenas.pipeline.request import BuildRequest, OtherDevice
from edgenas.pipeline.search_command import search
from edgenas.progress import Progress
from edgenas.report import write
from edgenas.report.added import add
from edgenas.report.front_summary import front_summary
from edgenas.report.summary import summary
from edgenas.store import file_hash
from tests.test_build import EFFORT, ONE_FINALIST, Built, write_photos

TWIN, BOARD = "fp32-twin", "raspberry-pi-4"
ROOMY_MS = {"host": 1.0, TWIN: 2.0, BOARD: 12.0}


@pytest.fixture(scope="module")
def twin() -> Iterator[str]:
    """Described as this machine is, but its INT8 is slow."""
    text = (device.shipped("devices") / "host.yaml").read_text(encoding="utf-8").replace("id: host", f"id: {TWIN}")
    before, int8 = text.split("      int8:\n")
    path = device.user_folder("devices") / f"{TWIN}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{before}      int8:\n{int8.replace('fast: true', 'fast: false', 1)}", encoding="utf-8")
    yield TWIN
    path.unlink()


@pytest.fixture(scope="module")
def built(one_torch_thread: None, twin: str, tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp("several")
    write_photos(folder / "photos")
    others = tuple(OtherDevice(name, ROOMY_MS[name]) for name in (twin, BOARD))
    request = BuildRequest(
        "host", folder / "out", data=str(folder / "photos"), latency_ms=ROOMY_MS["host"], effort="quick", others=others
    )
    return Built(request, build(request, Progress(quiet=True), effort=EFFORT))


@pytest.mark.heavy
def test_each_device_has_its_budget_and_its_own_file(built: Built) -> None:
    result = built.result
    assert {row["device"]: row["latency_ms"] for row in result["budgets"]} == ROOMY_MS
    assert list(result["devices"]) == list(ROOMY_MS)
    for name, row in result["devices"].items():
        assert row["budget_ms"] == ROOMY_MS[name]
        assert row["predicted"]["latency_ms"] > 0
        model = onnx.load(built.out / row["path"])
        onnx.checker.check_model(model, full_check=True)
        quantized = any(node.op_type == "QuantizeLinear" for node in model.graph.node)
        assert quantized == (row["precision"] == "int8")
        assert (built.out / row["path"]).with_name("on_device.py").is_file()
    shipped = {name: (row["precision"], row["target"]) for name, row in result["devices"].items()}
    assert shipped[TWIN] == ("fp32", "local"), "its INT8 is slow"
    assert shipped[BOARD] == ("fp32", None), "of its INT8 nothing is known"


@pytest.mark.heavy
def test_what_can_be_reached_is_measured_and_the_verdict_is_over_all(built: Built) -> None:
    devices = built.result["devices"]
    for name in ("host", TWIN):
        p50 = devices[name]["measured"]["p50_ms"]
        assert devices[name]["verdict"] == ("met" if p50 <= ROOMY_MS[name] else "not_met")
    assert devices[BOARD]["measured"] is None
    assert devices[BOARD]["verdict"] == "not_measured"
    assert devices["host"]["measured"] == built.result["winner"]["measured"]
    assert built.result["verdict"] == of_all(row["verdict"] for row in devices.values())
    assert {row.get("device") for row in built.result["rounds"]} == {"host", TWIN}


@pytest.mark.heavy
def test_a_search_has_the_latencies_of_each(built: Built, tmp_path: Path) -> None:
    copy = built.in_copy(tmp_path / "out")
    front = search(copy.request, Progress(quiet=True), EFFORT)
    assert {budget["device"]: budget["latency_ms"] for budget in front["budgets"]} == ROOMY_MS
    for row in front["candidates"]:
        latencies = {m["device"]: m["value"] for m in row["metrics"] if m["metric"] == "latency_ms"}
        assert list(latencies) == list(ROOMY_MS)
        assert all(latencies[name] <= ROOMY_MS[name] for name in ROOMY_MS)
    printed = front_summary(front, copy.out)
    assert re.search(rf"\* takes \S+ ms measured .*budget of {ROOMY_MS['host']:.3g} ms", printed)
    assert re.search(rf"  on {BOARD} it is predicted to take \S+ ms \(\w+\), budget {ROOMY_MS[BOARD]:.3g} ms", printed)
    assert f"<dt>On {BOARD}</dt>" in (copy.out / "front.html").read_text(encoding="utf-8")


@pytest.mark.heavy
def test_the_lock_names_the_runtime_and_the_tables_of_each(built: Built) -> None:
    locked = built.read("edgenas.lock.json")["devices"]
    assert list(locked) == list(ROOMY_MS)
    assert [sorted(each["tables"]) for each in locked.values()] == [
        ["onnxruntime-fp32-t1.csv", "onnxruntime-int8-t1.csv"],
        ["onnxruntime-fp32-t1.csv"],
        ["onnxruntime-fp32-t1.calibration.json"],
    ]
    for name, each in locked.items():
        assert each["machine"]["runtime"][0] == "onnxruntime"
        assert each["shipped"] == file_hash(built.out / built.result["devices"][name]["path"])


@pytest.mark.heavy
def test_the_report_and_the_summary_have_a_line_for_each(built: Built) -> None:
    page = write(built.out).read_text(encoding="utf-8")
    assert "On each device" in page
    said = summary(built.result, built.out)
    assert said.startswith("Budgets ")
    for name, row in built.result["devices"].items():
        assert row["path"] in page
        assert re.search(rf"^  {name}: .*{row['path']}$", said, re.MULTILINE)


@pytest.mark.heavy
def test_what_was_measured_on_another_device_is_taken_in(built: Built, tmp_path: Path) -> None:
    copy = built.in_copy(tmp_path / "out")
    row = built.result["devices"][BOARD]
    measured = {"p50_ms": 13.0, "p90_ms": 13.5, "p99_ms": 14.0, "n": 100, "provenance": "measured"}
    found = {
        "schema": 1,
        "kind": "edgenas benchmark",
        "model": "model.onnx",
        "sha256": file_hash(built.out / row["path"]),
        "device": BOARD,
        "target": "board",
        "runtime": "onnxruntime",
        "runtime_version": "1.30",
        "precision": "fp32",
        "threads": 1,
        "measured": measured,
    }
    for p50_ms, verdict in ((13.0, "not_met"), (5.0, "met")):
        (tmp_path / "measured.json").write_text(json.dumps(found | {"measured": measured | {"p50_ms": p50_ms}}))
        add(copy.out, tmp_path / "measured.json")
        result = copy.read("result.json")
        assert (result["devices"][BOARD]["verdict"], result["devices"][BOARD]["target"]) == (verdict, "board")
        assert result["verdict"] == of_all(each["verdict"] for each in result["devices"].values())
        assert result["winner"] == built.result["winner"], "that is the first device's"
    (tmp_path / "measured.json").write_text(json.dumps(found | {"device": "jetson-nano"}))
    with pytest.raises(InputError, match=f"the build is for 'host' and '{TWIN}' and '{BOARD}'"):
        add(copy.out, tmp_path / "measured.json")


@pytest.mark.heavy
@pytest.mark.usefixtures("larger_is_better")
def test_a_miss_on_another_device_corrects_its_predictor_and_searches_again(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a twin that takes exactly twice what its table says."""
    with opened_build(built.in_copy(tmp_path / "right").request, Progress(quiet=True), EFFORT) as opened:
        right = next(other.predictor for other in known_others(opened) if other.build.request.device == TWIN)
        smallest_ms = right.latency_ms(opened.space.network(opened.space.smallest()[0]))
    monkeypatch.setattr(
        other_devices,
        "measure_fast_precisions",
        lambda machine, networks: [{p: 2 * each.latency_ms(n) for p, each in right.each.items()} for n in networks],
    )
    for share in (4.0, 3.0, 6.0):
        budget_ms = share * smallest_ms
        copy = built.in_copy(tmp_path / f"out{share}")
        request = replace(copy.request, others=(OtherDevice(TWIN, budget_ms),))
        front = search(request, Progress(quiet=True), ONE_FINALIST)
        first, *later = [row for row in front["rounds"] if row["device"] == TWIN]
        if later:
            break  # else the most accurate candidate happened to be a small one
    assert first["predicted_ms"] <= budget_ms < first["measured_ms"]
    assert first["measured_ms"] == pytest.approx(2 * first["predicted_ms"])
    for row in later:  # the corrected predictor is right, whatever the host makes another round for
        assert row["measured_ms"] == pytest.approx(row["predicted_ms"])
        assert row["measured_ms"] <= budget_ms
    assert later


@pytest.mark.heavy
@pytest.mark.parametrize("name", [TWIN, BOARD])
def test_what_nothing_meets_on_another_device_ends_before_anything_is_profiled(
    built: Built, tmp_path: Path, name: str
) -> None:
    request = replace(built.request, out=tmp_path / "out", others=(OtherDevice(name, 0.0001),))
    with pytest.raises(InfeasibleBudget, match=rf"meets --latency-ms {name}=0\.0001: the fastest one") as refused:
        build(request, Progress(quiet=True), effort=EFFORT)
    assert refused.value.hint.startswith(f"Ask for at least --latency-ms {name}=")
    assert not list((tmp_path / "out" / "stages").glob("profile-*"))


@pytest.mark.heavy
def test_budgets_that_contradict_each_other_are_named_before_anything_is_trained(built: Built, tmp_path: Path) -> None:
    """The fewest parameters need another network than the lowest latency on the board."""
    out = tmp_path / "out"
    shutil.copytree(built.out / "stages", out / "stages", ignore=shutil.ignore_patterns("supernet-*"))
    request = replace(built.request, out=out, params_m=0.0022, others=(OtherDevice(BOARD, 2.5),))
    with pytest.raises(InfeasibleBudget) as refused:
        build(request, Progress(quiet=True), effort=EFFORT)
    together = (
        f"no network was found that meets --params-m 0.0022, --latency-ms host=1, --latency-ms {BOARD}=2.5 together"
    )
    assert refused.value.message.startswith(together)
    assert "where the others are met, the number of parameters is" in refused.value.message
    assert f"; the latency on {BOARD} is" in refused.value.message
    assert refused.value.hint.startswith("Give more room: --params-m")
    assert not list((out / "stages").glob("supernet-*"))


@pytest.mark.heavy
def test_a_search_for_the_lowest_loss(built: Built, tmp_path: Path) -> None:
    """The scores are those of the loss, beside which the accuracies that were found before stay as they are."""
    copy = built.in_copy(tmp_path / "out")
    result = build(replace(copy.request, objective="loss", others=()), Progress(quiet=True), effort=EFFORT)
    assert result["front"]["metric"] == "validation likelihood (exp of minus the loss), from the supernet"
    logs = {path: path.read_text(encoding="utf-8") for path in (copy.out / "stages").glob("*/evaluations.jsonl")}
    of_loss = [text for path, text in logs.items() if path.parent.name.startswith("likelihood-")]
    # a network may have been judged by both supernets, before and after it was trained on
    scores = {(row["id"], row["score"]) for text in of_loss for row in map(json.loads, text.splitlines())}
    assert {(row["id"], row["top1"]) for row in result["front"]["evaluated"]} <= scores
    assert all(0 < score < 1 for _, score in scores)
    for path, text in logs.items():
        if path.parent.name.startswith("accuracy-"):
            assert text == (built.out / path.relative_to(copy.out)).read_text(encoding="utf-8")
    cached = {stage["name"]: stage["cached"] for stage in result["stages"]}
    assert (cached["supernet"], cached["search"]) == (True, False)


OF_ONE = {"--runtime": None, "--threads": None}


def test_options_of_several_devices() -> None:
    found = of_devices(
        ["host", "pi"], [("pi", 5.0), ("host", 0.1)], [("pi", "ssh://me@pi?python=~/venv/bin/python")], OF_ONE
    )
    assert found == {
        "device": "host",
        "latency_ms": 0.1,
        "target": None,
        "others": (OtherDevice("pi", 5.0, "ssh://me@pi?python=~/venv/bin/python"),),
    }


@pytest.mark.parametrize("given", [[(None, 0.1)], [("host", 0.1)]])
def test_one_device_needs_no_name_in_its_options(given: list[tuple[str | None, float]]) -> None:
    found = of_devices(["host"], given, [(None, "local")], {"--threads": 2})
    assert (found["latency_ms"], found["target"], found["others"]) == (0.1, "local", ())
    assert of_devices(["host"], [], [], OF_ONE)["latency_ms"] is None


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("host=0.1", ("host", "0.1")),
        ("0.1", (None, "0.1")),
        ("my-board-2=ssh://a@b?python=x", ("my-board-2", "ssh://a@b?python=x")),
        ("ssh://a@b?python=x", (None, "ssh://a@b?python=x")),
        ("adb:A=B", (None, "adb:A=B")),
        ("=1", (None, "=1")),
    ],
)
def test_only_an_id_before_the_sign_names_a_device(text: str, parts: tuple[str | None, str]) -> None:
    assert split(text) == parts


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        (["met", "met"], "met"),
        (["met", "not_measured"], "not_measured"),
        (["not_measured", "not_met", "met"], "not_met"),
    ],
)
def test_one_device_that_is_over_its_budget_decides(verdicts: list[Any], expected: str) -> None:
    assert of_all(verdicts) == expected
