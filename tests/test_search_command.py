"""`edgenas search` on a few photos: what it writes, that it resumes, that a build goes on from it, and what the terminal shows."""

from __future__ import annotations

import io
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from scipy.stats import kendalltau, spearmanr

from edgenas.cli import cli
from edgenas.errors import InfeasibleBudget, InputError
from edgenas.nets.proxy_names import NAMES
from edgenas.network import costs
from edgenas.pareto import hypervolume, non_dominated
from edgenas.pipeline.build import build
from edgenas.pipeline.front_watch import FrontWatch
from edgenas.pipeline.request import EFFORTS, BuildRequest
from edgenas.pipeline.search_command import search
from edgenas.pipeline.searching import CHECKED
from edgenas.progress import Progress
from edgenas.report.front_summary import front_summary
from edgenas.search.evaluations import Candidate
from edgenas.search.promising import most_promising, promise
from edgenas.search.strategies import DEFAULT
from edgenas.spaces.mobile import MobileSpace, for_data
from tests.test_build import EFFORT, MAX_PX, write_photos
from tests.tiny_space import SPACE

pytestmark = [pytest.mark.heavy, pytest.mark.usefixtures("one_torch_thread")]

ROOT = Path(__file__).resolve().parents[1]
BUDGET_MS = 50.0  # far above what any network takes, so that what is measured of a winner decides nothing
SEARCHED = ("feasibility", "profile", "supernet", "explore", "focus", "search", "check")
MEASURED = ("feasibility", "profile", "check")
DRIVER = """
import sys
from pathlib import Path

import torch

from edgenas.pipeline.request import BuildRequest
from edgenas.pipeline.search_command import search
from edgenas.progress import Progress
from edgenas.report.front_summary import front_summary
from tests.test_build import EFFORT

torch.set_num_threads(1)
request = BuildRequest("host", Path(sys.argv[1]), data=sys.argv[2], latency_ms=float(sys.argv[3]), effort="quick")
search(request, Progress(quiet=True), EFFORT)
"""


@pytest.fixture(scope="module")
def request_(tmp_path_factory: pytest.TempPathFactory) -> BuildRequest:
    folder = tmp_path_factory.mktemp("search")
    write_photos(folder / "photos")
    return BuildRequest("host", folder / "out", data=str(folder / "photos"), latency_ms=BUDGET_MS, effort="quick")


@pytest.fixture(scope="module")
def front(request_: BuildRequest) -> dict[str, Any]:
    return search(request_, Progress(quiet=True), EFFORT)


@pytest.fixture(scope="module")
def space() -> MobileSpace:
    return for_data(MAX_PX, 3, 2)


def evaluations(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "evaluations.jsonl").read_text(encoding="utf-8").splitlines()]


def in_copy(request: BuildRequest, folder: Path) -> BuildRequest:
    shutil.copytree(request.out, folder)
    return replace(request, out=folder)


def test_the_front_is_that_of_the_last_rounds_evaluations(
    front: dict[str, Any], request_: BuildRequest, space: MobileSpace
) -> None:
    assert json.loads((request_.out / "front.json").read_text(encoding="utf-8")) == json.loads(json.dumps(front))
    rows = evaluations(request_.out)
    phases = [row["phase"] for row in rows]
    assert phases == sorted(phases), "first explored, then searched"
    assert phases.count("explore") == front["explored"] == EFFORT.search.explored
    last = [row for row in rows if row["round"] == len(front["evaluated"])]
    assert len(last) == front["evaluated"][-1] > 1
    expected = non_dominated(np.array([(row["latency_ms"], 1 - row["score"]) for row in last]))
    assert [row["id"] for row in front["candidates"] if row["on_front"]] == [last[i]["id"] for i in expected]
    evaluated = [Candidate(space.subnet(tuple(row["genome"])), row["score"], row["latency_ms"]) for row in last]
    checked = most_promising(evaluated, CHECKED * EFFORT.fine_tune[0].finalists, promise(space, evaluated))
    assert front["chosen"] in {each.subnet.id for each in checked}, "the best, or the next where that was too slow"


def test_metrics_are_those_of_the_network(front: dict[str, Any], request_: BuildRequest, space: MobileSpace) -> None:
    logged = {row["id"]: row for row in evaluations(request_.out) if row["phase"] == "search"}
    assert front["space"] == {"name": "mobile", "id": space.id}
    for row in front["candidates"]:
        subnet = space.subnet(tuple(row["genome"]))
        network, metrics = space.network(subnet), {metric["metric"]: metric for metric in row["metrics"]}
        assert (row["id"], row["architecture"]) == (subnet.id, list(space.describe(subnet)))
        latency = metrics["latency_ms"]
        assert latency["device"] == "host"
        assert latency["low"] < latency["value"] == logged[subnet.id]["latency_ms"] < latency["high"] < BUDGET_MS
        assert latency["provenance"] in ("calibrated", "modelled")
        assert latency["precision"] in ("fp32", "int8")
        assert metrics["accuracy"]["value"] == logged[subnet.id]["score"]
        assert metrics["macs"]["value"] == costs.macs(network)
        assert metrics["params"]["value"] == costs.params(network)
        assert metrics["activation_peak_mib"]["value"] == costs.activation_peak_bytes(network, 1) / 2**20
        assert 0.5 < metrics["size_bytes"]["value"] / costs.params(network) < 20
    assert front["rounds"][-1]["measured_ms"] > 0
    assert front["rounds"][-1]["provenance"] == "measured"


def test_the_page_shows_every_evaluation_and_its_architecture(front: dict[str, Any], request_: BuildRequest) -> None:
    page = (request_.out / "front.html").read_text(encoding="utf-8")
    wide = page[page.index('<div class="wide-only">') : page.index('<div class="narrow">')]
    tips = re.findall(r"<title>(.*?)</title>", wide, re.DOTALL)
    outside = re.search(r"(\d+) slower or less accurate candidates lie outside", page)
    shown = {tip.split(":")[0] for tip in tips}
    seen = {row["id"] for row in evaluations(request_.out)}
    assert shown <= seen
    assert len(shown) == len(seen) - (int(outside[1]) if outside else 0)
    assert all(re.search(r"\nstem: (2 x )?conv 3x3", tip) and "\nhead: " in tip for tip in tips)
    assert wide.count('class="chosen ') == 1
    assert front["chosen"] in shown
    assert "<script" not in page
    assert not re.search(r"(src|href)=\"(?!data:)", page)


def test_a_build_takes_all_of_it_from_the_cache(front: dict[str, Any], request_: BuildRequest, tmp_path: Path) -> None:
    copy = in_copy(request_, tmp_path / "out")
    before = (copy.out / "evaluations.jsonl").read_bytes()
    result = build(copy, Progress(quiet=True), EFFORT)
    assert {s["name"] for s in result["stages"] if s["cached"]} == set(SEARCHED)
    assert {s["name"] for s in result["stages"] if not s["cached"]} >= {"fine-tune", "export"}
    assert result["front"]["chosen"] in [row["id"] for row in front["candidates"]]
    assert result["front"]["chosen"] == result["finalists"][0]["id"]
    again = json.loads((copy.out / "front.json").read_text(encoding="utf-8"))
    assert again == json.loads(json.dumps(front)) | {"chosen": result["front"]["chosen"]}
    assert (copy.out / "evaluations.jsonl").read_bytes() == before


def test_another_strategy_takes_all_but_the_search_from_the_cache(
    front: dict[str, Any], request_: BuildRequest, tmp_path: Path
) -> None:
    copy = replace(in_copy(request_, tmp_path / "out"), strategy="bayesian")
    progress = Progress(quiet=True)
    other = search(copy, progress, EFFORT)
    cached = {stage.name: stage.cached for stage in progress.stages if stage.name in SEARCHED}
    assert [name for name, was in cached.items() if not was] in (["search"], ["search", "check"])
    assert (front["strategy"], other["strategy"]) == (DEFAULT, "bayesian")
    assert other["accuracy"] == front["accuracy"]
    assert 1 < other["evaluated"][-1] <= EFFORT.search.evaluations
    assert all(values["latency_ms"]["value"] < BUDGET_MS for values in map(metrics_of, other["candidates"]))
    assert "strategy bayesian" in (copy.out / "front.html").read_text(encoding="utf-8")
    again = search(copy, Progress(quiet=True), EFFORT)
    assert json.loads(json.dumps(again)) == json.loads(json.dumps(other))


def test_halving_trains_candidates_and_compares_those_alone(
    front: dict[str, Any], request_: BuildRequest, tmp_path: Path
) -> None:
    copy = replace(in_copy(request_, tmp_path / "out"), strategy="halving")
    found = search(copy, Progress(quiet=True), EFFORT)
    rows = [row for row in evaluations(copy.out) if row["round"] == len(found["evaluated"])]
    rungs = [[row for row in rows if row["rung"] == rung] for rung in range(1 + len(EFFORT.fine_tune))]
    assert len(rows) == found["evaluated"][-1] == sum(map(len, rungs))
    for larger, smaller in itertools.pairwise([{row["id"] for row in rung} for rung in rungs]):
        assert smaller
        assert smaller <= larger
    *_, trained = rungs
    assert found["accuracy"] == front["accuracy"] | {"weights": "trained"}
    scores = {row["id"]: row["score"] for row in trained}
    for row in found["candidates"]:
        assert metrics_of(row)["accuracy"]["value"] == scores[row["id"]], "of those that were trained, as trained"
    stages = copy.out / "stages"
    assert len(list(stages.glob("finalist-*/trained.safetensors"))) == sum(map(len, rungs[1:]))
    page = (copy.out / "front.html").read_text(encoding="utf-8")
    assert "after short trainings of their own" in page
    assert "judged with shared weights" in page


def metrics_of(row: dict[str, Any]) -> dict[str, Any]:
    return {metric["metric"]: metric for metric in row["metrics"]}


def test_killed_and_resumed_it_finds_the_same_front(
    front: dict[str, Any], request_: BuildRequest, tmp_path: Path
) -> None:
    """With the same measurements, which no two runs share otherwise; the rest is made again and killed on the way."""
    out = tmp_path / "out"
    for folder in (request_.out / "stages").iterdir():
        if folder.name.startswith(tuple(f"{name}-" for name in MEASURED)):
            shutil.copytree(folder, out / "stages" / folder.name)
    command = [sys.executable, "-c", DRIVER, str(out), str(request_.data), str(BUDGET_MS)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}

    def searched_lines() -> int:
        """Evaluations after the supernet was trained on: in the second log there is."""
        if not any((out / "stages").glob("focus-*/done.json")):
            return 0
        logs = sorted((out / "stages").glob("accuracy-*/evaluations.jsonl"), key=lambda path: path.stat().st_mtime_ns)
        return logs[-1].read_bytes().count(b"\n") if len(logs) > 1 else 0

    process = subprocess.Popen(command, env=environment)
    while searched_lines() < 3:
        assert process.poll() is None, "ended before it could be killed"
        time.sleep(0.002)
    process.kill()
    process.wait()
    assert not any((out / "stages").glob("search-*/done.json"))
    assert not (out / "front.json").exists()
    subprocess.run(command, env=environment, check=True)
    stages = [sorted(folder.name for folder in (each / "stages").iterdir()) for each in (out, request_.out)]
    assert stages[0] == stages[1]  # else something was measured again, of other candidates
    assert json.loads((out / "front.json").read_text(encoding="utf-8")) == json.loads(json.dumps(front))
    for name in ("front.json", "evaluations.jsonl", "front.html"):
        assert (out / name).read_bytes() == (request_.out / name).read_bytes(), name


def test_the_command_prints_the_front(
    front: dict[str, Any], request_: BuildRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(EFFORTS, "quick", EFFORT)
    copy = in_copy(request_, tmp_path / "out")
    options = (
        f"search --device host --data {copy.data} --effort quick --latency-ms {BUDGET_MS} --out {copy.out}".split()
    )
    run = CliRunner().invoke(cli, [*options, "--json"])
    assert run.exit_code == 0, run.output
    assert json.loads(run.stdout) == json.loads(json.dumps(front))
    assert "Searching  (cached)" in run.stderr
    printed = CliRunner().invoke(cli, options).stdout
    for row in front["candidates"]:
        mark = "*" if row["id"] == front["chosen"] else " " if row["on_front"] else "-"
        assert f"{mark} {row['id']}" in printed
    assert f"{front['rounds'][-1]['measured_ms']:.3g} ms measured" in printed


def test_explained_it_says_how_well_proxies_rank(
    front: dict[str, Any], request_: BuildRequest, tmp_path: Path, space: MobileSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = in_copy(request_, tmp_path / "out")
    progress = Progress(quiet=True)
    explained = search(copy, progress, EFFORT, explain=True)
    assert [stage.name for stage in progress.stages if not stage.cached] == ["data", "preflight", "proxies"]
    rows = evaluations(copy.out)
    assert all(set(row["proxies"]) == set(NAMES) for row in rows)
    of = {row["id"]: row["proxies"] for row in rows}
    for row in rows:
        assert row["proxies"]["macs"] == costs.macs(space.network(space.subnet(tuple(row["genome"]))))
    assert {(row["proxy"], row["phase"]) for row in explained["explain"]} == {
        (name, phase) for name in NAMES for phase in ("explore", "search")
    }
    for said in explained["explain"]:
        scores = {row["id"]: row["score"] for row in rows if row["phase"] == said["phase"]}
        values = [of[subnet][said["proxy"]] for subnet in scores]
        assert said["n"] == len(scores) > 3
        if said["spearman"] is None:
            assert len(set(scores.values())) == 1 or len(set(values)) == 1
        else:
            assert said["spearman"] == pytest.approx(spearmanr(values, list(scores.values())).statistic)
            assert said["kendall_tau"] == pytest.approx(kendalltau(values, list(scores.values())).statistic)
            assert -1 <= said["spearman_low"] <= said["spearman_high"] <= 1
    for row in explained["candidates"]:
        metrics = {metric["metric"]: metric["value"] for metric in row["metrics"]}
        assert {name: metrics[name] for name in NAMES} == of[row["id"]]
    # nothing else changed, and nothing is worked out twice
    base = json.loads(json.dumps(front))
    for row in explained["candidates"]:
        row["metrics"] = [
            metric for metric in row["metrics"] if metric["metric"] not in set(NAMES) - {"macs", "params"}
        ]
    assert {key: value for key, value in explained.items() if key != "explain"} == base
    monkeypatch.setitem(EFFORTS, "quick", EFFORT)
    options = (
        f"search --device host --data {copy.data} --effort quick --latency-ms {BUDGET_MS} --out {copy.out} --explain"
    )
    run = CliRunner().invoke(cli, options.split())
    assert "Zero-cost proxies" in run.stderr
    assert "(cached)" in next(line for line in run.stderr.splitlines() if "Zero-cost" in line)
    for name in NAMES:
        assert len(re.findall(rf"^ +{name} .*\d", run.stdout, re.MULTILINE)) == 2
    assert f"Rank correlation with the accuracy of the {front['explored']} explored" in run.stdout


def test_a_warm_start_says_whether_it_helped(request_: BuildRequest, tmp_path: Path, space: MobileSpace) -> None:
    copy = replace(in_copy(request_, tmp_path / "out"), warm_start="macs")
    progress = Progress(quiet=True)
    found = search(copy, progress, EFFORT)
    assert {"feasibility", "profile", "supernet"} <= {stage.name for stage in progress.stages if stage.cached}
    explored = [row for row in evaluations(copy.out) if row["phase"] == "explore"]
    half = EFFORT.search.explored // 2
    random, ranked = explored[: len(explored) - half], explored[-half:]
    said = found["warm_start"]
    assert (said["proxy"], said["n_ranked"], said["n_random"]) == ("macs", half, len(random))
    means = [np.mean([row["score"] for row in rows]) for rows in (ranked, random)]
    assert said["difference"] == pytest.approx(means[0] - means[1])
    assert said["low"] <= said["difference"] <= said["high"]
    macs = [
        [costs.macs(space.network(space.subnet(tuple(row["genome"])))) for row in rows] for rows in (ranked, random)
    ]
    assert np.mean(macs[0]) > np.mean(macs[1])
    assert macs[0] == sorted(macs[0], reverse=True)
    again = search(copy, Progress(quiet=True), EFFORT)
    assert again == found, "from the cache"
    assert "Warm start by macs: its 4 choices score" in front_summary(found, copy.out)


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"latency_ms": 1e-6}, InfeasibleBudget, "no network of the space meets --latency-ms 1e-06"),
        ({"macs_m": 1e-4}, InfeasibleBudget, "the number of MACs is at least"),
        ({"strategy": "grid"}, InputError, "no search strategy is called 'grid'"),
        ({"space": "x"}, InputError, "no space that can be built is called 'x'"),
        ({"data": "/nowhere"}, InputError, "no such folder"),
        ({"device": "jetson"}, InputError, "no device called 'jetson'"),
        ({"device": "coral-edge-tpu"}, InputError, "coral-edge-tpu"),
    ],
)
def test_bad_input_is_refused_before_anything_is_trained(
    request_: BuildRequest, tmp_path: Path, change: dict[str, Any], error: type[InputError], said: str
) -> None:
    with pytest.raises(error, match=said) as refused:
        search(replace(request_, out=tmp_path / "out", **change), Progress(quiet=True), EFFORT)
    assert refused.value.exit_code == 2
    assert not list(tmp_path.glob("out/stages/supernet-*"))
    assert not (tmp_path / "out" / "front.json").exists()


POINTS = st.lists(st.tuples(st.floats(0.01, 3), st.floats(0, 1)), min_size=1, max_size=20)


@given(POINTS)
def test_what_is_shown_live_is_the_front_of_all_evaluations(points: list[tuple[float, float]]) -> None:
    rng = np.random.default_rng(0)
    found = [Candidate(SPACE.sample(rng), score, ms) for ms, score in points]
    watch = FrontWatch(Progress(quiet=True), SPACE, 2.0, len(found))
    for count, candidate in enumerate(found, start=1):
        watch(count, candidate)
    array = np.array([(c.latency_ms, 1 - c.score) for c in found])
    assert [(c.latency_ms, c.score) for c in watch.front] == [
        (found[i].latency_ms, found[i].score) for i in non_dominated(array)
    ]
    assert watch.hypervolume == pytest.approx(hypervolume(array, (2.0 * (1 + 1e-6), 1.0)) / 2.0)
    assert 0 <= watch.hypervolume <= 1


def test_what_was_trained_is_shown_beside_what_was_trained_as_long() -> None:
    rng = np.random.default_rng(0)
    one, other, third = (SPACE.sample(rng) for _ in range(3))
    watch = FrontWatch(Progress(quiet=True), SPACE, 2.0, 4)
    seen, trained = [Candidate(one, 0.9, 1.0), Candidate(other, 0.8, 0.5)], [Candidate(one, 0.7, 1.0, 1)]
    trained.append(Candidate(third, 0.75, 1.5, 1))
    for count, candidate in enumerate([*seen, *trained], start=1):
        watch(count, candidate)
    assert list(watch.front) == trained


def test_a_terminal_shows_a_table_and_a_file_gets_lines() -> None:
    rng, clock = np.random.default_rng(0), [0.0]
    shown: dict[bool, str] = {}
    for is_terminal in (True, False):
        progress = Progress()
        progress.console = Console(file=io.StringIO(), force_terminal=is_terminal, width=100)
        with progress.stage("search", "Searching", cached=False):
            watch = FrontWatch(progress, SPACE, 1.0, 40, now=lambda: clock[0])
            for count in range(1, 41):
                clock[0] += 1
                watch(count, Candidate(SPACE.sample(rng), count / 100, count / 50))
            clock[0] += 7
            if is_terminal:
                progress._bar.refresh()
        assert isinstance(progress.console.file, io.StringIO)
        shown[is_terminal] = progress.console.file.getvalue()
    table, lines = shown[True], shown[False].splitlines()
    assert "M MACs" in table
    assert re.search(r"0\.8 +40\.0% +\d\.\d\d +7 s ago", table)
    assert "and 28 faster ones" in table
    assert [line.strip().split(" ")[0] for line in lines[1:-1]] == ["10", "20", "30", "40"]
    assert re.fullmatch(
        r"    40 of 40 evaluated; 40 on the front, the best 40\.0% at 0\.8 ms; hypervolume 0\.\d+", lines[-2]
    )
