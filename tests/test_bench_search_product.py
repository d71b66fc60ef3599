"""Strategies compared in the product, on a few photos: what each is charged, and that a folder's evaluations are used again."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from edgenas.pipeline.context import opened_build
from edgenas.pipeline.request import BuildRequest
from edgenas.pipeline.searching import prepare
from edgenas.progress import Progress
from tests.test_build import EFFORT, write_photos

pytestmark = [pytest.mark.heavy, pytest.mark.usefixtures("one_torch_thread")]


@pytest.fixture
def tool() -> ModuleType:
    return importlib.import_module("bench_search_product")


def test_strategies_are_charged_alike_for_what_was_evaluated_before(tool: ModuleType, tmp_path: Path) -> None:
    write_photos(tmp_path / "photos")
    out = tmp_path / "out"
    request = BuildRequest("host", out, data=str(tmp_path / "photos"), latency_ms=50.0, effort="quick")
    names = ("guided", "random")
    with opened_build(request, Progress(quiet=True), EFFORT) as build:
        ground = prepare(build)
        found: dict[str, Any] = tool.bench(build, ground, names, 16, 2)
        log = (out / tool.LOG).read_text(encoding="utf-8")
        again = tool.bench(build, ground, names, 16, 2)
    assert (out / tool.LOG).read_text(encoding="utf-8") == log, "something was evaluated twice"
    assert 16 <= len(log.splitlines()) <= 2 * 2 * 16
    for name in names:
        one, other = found["strategies"][name], again["strategies"][name]
        volumes = one["hypervolume"]
        counts = [key for key in volumes if key.endswith("evaluations")]  # times lie in between
        assert counts == ["4 evaluations", "8 evaluations", "16 evaluations"]
        for key in counts:
            assert 0 <= volumes[key]["low"] <= volumes[key]["mean"] <= volumes[key]["high"] <= 1
            assert other["hypervolume"][key] == volumes[key]
        assert volumes["4 evaluations"]["mean"] <= volumes["16 evaluations"]["mean"]
        assert 0 < one["thinking_s"] < one["total_s"]
    assert found["strategies"]["guided"]["below_the_first"]["16 evaluations"] == {"mean": 0, "low": 0, "high": 0}
    assert "best accuracy" in tool.text(found)
