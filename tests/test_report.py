"""The report, rendered from a golden result and from what is left of it when figures are missing or hostile."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import edgenas.report
from edgenas.errors import InputError
from edgenas.report import html, plots

GOLDEN = Path(__file__).parent / "golden" / "result_example.json"
HOSTILE = "</style></title><script>alert(1)</script>\"'><img src=//x.test/a onerror=alert(1)>{{ 7*7 }}"


class Page(HTMLParser):
    """The elements of a page, and the text that a reader sees."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.source = source
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.headline = ""
        self.text = ""
        self.feed(source)
        self.headline, self.text = (re.sub(r"\s+", " ", text).strip() for text in (self.headline, self.text))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.open.append(tag)
        self.text += "" if tag in ("a", "b", "code", "small", "span") else " "

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data
        if "h1" in self.open:
            self.headline += data

    def tags(self) -> set[str]:
        return {tag for tag, _ in self.elements}


@pytest.fixture
def result() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(GOLDEN.read_text(encoding="utf-8"))
    return loaded


def render(result: object, folder: Path) -> Page:
    (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")
    path = edgenas.report.write(folder)
    assert path == folder / "report.html"
    assert sorted(p.name for p in folder.iterdir()) == ["report.html", "result.json"], "no unfinished file is left"
    return Page(path.read_text(encoding="utf-8"))


def replaced(value: Any, leaf: Any) -> Any:
    """`value` with every string replaced, or with every leaf None."""
    if isinstance(value, dict):
        return {key: replaced(item, leaf) for key, item in value.items()}
    if isinstance(value, list):
        return [replaced(item, leaf) for item in value]
    return leaf if leaf is None or isinstance(value, str) else value


def test_met(result: dict[str, Any], tmp_path: Path) -> None:
    page = render(result, tmp_path)
    assert page.headline == (
        "Met: INT8 model runs in 0.101 ms (p50, measured on host, ONNX Runtime 1.32.0, 1 thread), budget 0.110 ms; "
        "90.1 % test top-1."
    )
    assert page.text.index(page.headline) < page.text.index("Latency, p50, measured")
    assert ("div", {"class": "verdict met"}) in page.elements
    assert "Example data" in page.text


def test_not_met_says_by_how_much_and_what_to_do(result: dict[str, Any], tmp_path: Path) -> None:
    result["verdict"] = "not_met"
    result["winner"]["measured"] |= {"p50_ms": 0.1312, "p90_ms": 0.2}
    result["winner"]["size_bytes"] = 312_345
    page = render(result, tmp_path)
    assert page.headline == (
        "Not met: INT8 model runs in 0.131 ms (p50, measured on host, ONNX Runtime 1.32.0, 1 thread), 19 % over the "
        "budget of 0.110 ms; size 0.298 MiB, over the budget of 0.250 MiB; 90.1 % test top-1."
    )
    assert ("div", {"class": "verdict not_met"}) in page.elements
    # Rounded up, so that the budget that is proposed is really met.
    assert "edgenas build --device host --latency-ms 0.132" in page.text
    assert "edgenas build --device host --size-mib 0.298" in page.text
    assert "--effort max" in page.text
    assert "p90 is 1.5 times p50" in page.text


def test_not_measured_calls_nothing_measured(result: dict[str, Any], tmp_path: Path) -> None:
    result |= {"verdict": "not_measured", "device": "jetson-nano", "target": None, "held_out": None, "steps": None}
    result |= {"rounds": None, "pruning": None, "kernel_groups": None, "decision": None, "warnings": []}
    for row in (result["winner"], *result["variants"], *result["baselines"]):
        row["measured"] = None
        row["predicted"]["provenance"] = "modelled"
    page = render(result, tmp_path)
    assert page.headline == (
        "Not measured: INT8 model is predicted to run in 0.0989 ms (modelled for jetson-nano, between 0.0945 and "
        "0.103 ms), budget 0.110 ms; 90.1 % test top-1."
    )
    assert "edgenas bench model/model.onnx --device jetson-nano --target ssh://user@board" in page.text
    claims = re.sub(r"(?i)not measured|predicted against measured|measured\.json", "", page.text)
    assert "measured" not in claims


def test_an_emulated_latency_is_called_emulated(result: dict[str, Any], tmp_path: Path) -> None:
    result |= {"target": "emulated:aarch64", "rounds": None}
    page = render(result, tmp_path)
    assert "(p50, emulated on host" in page.headline
    assert "Latency, p50, emulated" in page.text
    assert any("0.188\xa0ms emulated" in text for text in re.findall(r"<tspan[^>]*>([^<]*)", page.source))


def test_the_budgets_percentile_is_the_one_judged(result: dict[str, Any], tmp_path: Path) -> None:
    result["budgets"][0] |= {"latency_percentile": 99}
    result["verdict"] = "not_met"
    page = render(result, tmp_path)
    assert "runs in 0.129 ms (p99, measured" in page.headline
    assert "17 % over the budget of 0.110 ms" in page.headline


def test_everything_that_was_found_is_on_the_page(result: dict[str, Any], tmp_path: Path) -> None:
    text = render(result, tmp_path).text
    names = [row["name"] for key in ("variants", "baselines", "stages") for row in result[key]]
    titles = [row["title"] for row in result["steps"]] + [row["group"] for row in result["kernel_groups"]]
    ids = result["front"]["front"] + [row["id"] for row in result["held_out"]]
    facts = [
        result["decision"],
        result["environment"]["cpu"],
        result["data"]["name"],
        "edgenas.lock.json",
        "model.json",
    ]
    for expected in [*names, *titles, *ids, *facts, *result["warnings"], *result["architecture"]]:
        assert expected in text, expected
    assert "2 warnings to read" in text
    assert "Channels: 368 before, 336 after. Time saved: 0.00410 ms (measured)" in text
    assert "resnet8 baseline" in text
    assert "int8 shipped" in text


def test_changes_are_only_between_what_can_be_compared(result: dict[str, Any], tmp_path: Path) -> None:
    assert "+2.6 pt" in render(result, tmp_path).text
    result["steps"][0]["split"] = "validation"
    result["steps"][2]["provenance"] = "modelled"
    text = render(result, tmp_path).text
    assert "+2.6 pt" not in text
    assert "−8.6 %" not in text and "−41 %" not in text
    assert "−0.3 pt" in text


def test_balanced_accuracy_stands_beside_plain_when_unbalanced(result: dict[str, Any], tmp_path: Path) -> None:
    assert "Balanced" not in render(result, tmp_path).text
    result["data"]["unbalanced"] = True
    result["winner"]["accuracy"]["balanced"] = 0.8123
    assert "Balanced 81.2 %" in render(result, tmp_path).text


def test_how_well_validation_images_tell_finalists_apart(result: dict[str, Any], tmp_path: Path) -> None:
    result["finalists"] = [{"id": "a", "scores": [0.84, 0.87]}, {"id": "b", "scores": [0.83, 0.865]}]
    assert "standard error" not in render(result, tmp_path).text
    result |= {"finalists_error": 0.0093}
    result["data"]["validation"] = 1400
    assert (
        "With 1,400 validation images, an accuracy like the best one's is known to ±0.9 points"
        in render(result, tmp_path).text
    )


def test_one_predictor_or_one_per_precision(result: dict[str, Any], tmp_path: Path) -> None:
    per_precision = render(result, tmp_path).text
    assert per_precision.count("Order kept (Kendall tau)") == 2
    result["predictor"] = result["predictor"]["int8"] | {"within_10pct": 0.9333}
    flat = render(result, tmp_path).text
    assert flat.count("Order kept (Kendall tau)") == 1
    assert "Within ±10 % 93.3 %" in flat


def test_no_figure_is_ever_made_up(result: dict[str, Any], tmp_path: Path) -> None:
    blank = replaced(result, None) | {"schema": 1, "verdict": "not_measured"}
    text = render(blank, tmp_path).text
    assert not re.search(r"\b(None|null|nan|inf|Undefined)\b", text)
    assert not re.search(r"\b0(\.0+)? (ms|%|KiB|MiB|s)\b", text)
    assert "unknown" in text and "not measured" in text
    result["winner"] |= {"size_bytes": None, "macs": None, "activation_peak_mib": None}
    text = render(result, tmp_path).text
    assert "Model file unknown" in text and "MACs for one image unknown" in text


@pytest.mark.parametrize("verdict", ["met", "not_met", "not_measured"])
def test_the_least_result_there_is(verdict: str, tmp_path: Path) -> None:
    page = render({"schema": 1, "verdict": verdict}, tmp_path)
    assert page.headline.endswith(": no model was built.")
    assert "None" not in page.text


def test_any_part_may_be_missing_or_null_or_of_another_type(result: dict[str, Any], tmp_path: Path) -> None:
    result["held_out"], result["front"]["evaluated"] = result["held_out"][:3], result["front"]["evaluated"][:9]
    changes = []
    for key in result.keys() - {"schema", "verdict"}:
        without = {name: value for name, value in result.items() if name != key}
        changes += [without, result | {key: None}, result | {key: [0]}, result | {key: {"a": "b"}}]
    for key in ("winner", "front", "data", "environment", "pruning", "predictor"):
        changes += [result | {key: result[key] | {inner: None}} for inner in result[key]]
    for changed in changes:
        (tmp_path / "result.json").write_text(json.dumps(changed), encoding="utf-8")
        source = edgenas.report.write(tmp_path).read_text(encoding="utf-8")
        assert '<span class="word">Met:</span>' in source
        assert "Undefined" not in source


def test_text_from_data_stays_text(result: dict[str, Any], tmp_path: Path) -> None:
    harmless = render(result, tmp_path)
    hostile = replaced(result, HOSTILE) | {"verdict": "not_met"}
    hostile["winner"]["measured"]["p50_ms"] = 0.2
    hostile["environment"]["packages"] = {HOSTILE: HOSTILE}
    hostile["predictor"] = {HOSTILE: result["predictor"]["int8"]}
    page = render(hostile, tmp_path)
    assert page.tags() <= harmless.tags() | {"ul", "li", "code"}
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    assert "<script" not in page.source and "<img" not in page.source
    assert page.source.count("</style>") == page.source.count("</title></head>") + 1
    assert "49" not in re.findall(r"onerror=alert\(1\)&gt;(.{12})", page.source)[0]
    assert "<script>alert(1)</script>" in page.headline


def test_hostile_names_stay_text_inside_the_plots(result: dict[str, Any], tmp_path: Path) -> None:
    result["front"]["evaluated"][0]["id"] = HOSTILE
    result["front"]["front"].append(HOSTILE)
    for row in (*result["variants"], *result["steps"], *result["held_out"]):
        row["name"] = row["id"] = HOSTILE
    page = render(result, tmp_path)
    pictures = "".join(re.findall(r"<svg.*?</svg>", page.source, re.DOTALL))
    assert "&lt;script&gt;alert(1)" in pictures
    assert "<script" not in pictures and "<img" not in pictures


def test_the_page_is_whole_by_itself(result: dict[str, Any], tmp_path: Path) -> None:
    page = render(result, tmp_path)
    assert not page.tags() & {"script", "iframe", "object", "embed", "img", "base", "form"}
    for tag, attributes in page.elements:
        for name in ("src", "href", "xlink:href", "srcset", "data", "action"):
            assert (attributes.get(name) or "#").startswith(("#", "data:")), (tag, attributes)
    assert "url(" not in page.source and "@import" not in page.source
    policy = [a["content"] for tag, a in page.elements if tag == "meta" and "http-equiv" in a]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]
    assert len(page.source) < 200_000


def test_every_plot_has_a_text_alternative(result: dict[str, Any], tmp_path: Path) -> None:
    page = render(result, tmp_path)
    pictures = [attributes for tag, attributes in page.elements if tag == "svg"]
    assert len(pictures) == 3 * 2 + 3
    assert all(a["role"] == "img" and len(a["aria-label"] or "") > 20 for a in pictures)
    tables = sum(tag == "table" for tag, _ in page.elements)
    assert tables == 7
    assert sum(tag == "details" for tag, _ in page.elements) == 2


def test_thousands_of_candidates_stay_small(result: dict[str, Any], tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"id": f"c{i}", "latency_ms": 0.05 + i * 1e-5 + (i % 100 == 0), "top1": 0.5 + (i * 7919 % 1000) / 3000}
        for i in range(5000)
    ]
    best = max(rows, key=lambda row: row["top1"])["id"]
    result["front"] |= {"evaluated": rows, "front": [best], "chosen": best}
    page = render(result, tmp_path)
    assert "5,000 candidates" in page.text
    assert "lie outside the plot" in page.text
    assert len(page.source) < 400_000


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "Can't read"),
        ("{", "not valid JSON"),
        ("[]", "must hold a JSON object, but holds list"),
        ('{"verdict": "met"}', "must be of schema 1, but is of schema None"),
        ('{"schema": 2, "verdict": "met"}', "must be of schema 1, but is of schema 2"),
        ('{"schema": 1, "verdict": "fine"}', "must be one of met, not_met, not_measured, but is 'fine'"),
        ('{"schema": 1, "verdict": ["met"]}', "must be one of met, not_met, not_measured, but is \\['met'\\]"),
    ],
)
def test_a_result_that_cannot_be_used_is_refused(content: str | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "result.json").write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=message) as caught:
        edgenas.report.write(tmp_path)
    assert caught.value.hint
    assert not (tmp_path / "report.html").exists()


def test_an_old_report_survives_a_failure(result: dict[str, Any], tmp_path: Path) -> None:
    render(result, tmp_path)
    before = (tmp_path / "report.html").read_bytes()
    (tmp_path / "result.json").write_text("{", encoding="utf-8")
    with pytest.raises(InputError):
        edgenas.report.write(tmp_path)
    assert (tmp_path / "report.html").read_bytes() == before


def test_broken_characters_and_numbers_do_not_stop_it(result: dict[str, Any], tmp_path: Path) -> None:
    result["warnings"] = ["lone surrogate \ud800 and \x00"]
    result["winner"]["measured"] |= {"p99_ms": float("inf"), "p90_ms": float("nan"), "cpu_ms": "0.1"}
    page = render(result, tmp_path)
    assert "p99 not measured" in page.text


def test_the_same_result_gives_the_same_page(result: dict[str, Any], tmp_path: Path) -> None:
    assert render(result, tmp_path).source == render(result, tmp_path).source


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.08123, "0.0812"), (0.11, "0.110"), (0.9996, "1.00"), (1.005, "1.00"), (12.34, "12.3"), (123.4, "123"),
        (1234.5, "1,234"), (999.6, "1,000"), (-0.5, "−0.500"), (0, "0"), (None, None), (True, None), ("1", None),
        (float("nan"), None),
    ],
)  # fmt: skip
def test_three_significant_digits(value: object, text: str | None) -> None:
    assert html.significant(value) == text


def test_units() -> None:
    shown = [html.size(104_877), html.size(3_000_000), html.amount(88_314), html.amount(6_871_040), html.amount(12)]
    assert shown == ["102\xa0KiB", "2.86\xa0MiB", "88.3\xa0k", "6.87\xa0M", "12"]
    times = [html.duration(s) for s in (0.42, 59.96, 241.7, 3600 * 2 + 60 * 5, None)]
    assert times == ["0.4\xa0s", "1\xa0min 00\xa0s", "4\xa0min 02\xa0s", "2\xa0h 05\xa0min", None]


def test_accuracy_interval_is_wilsons() -> None:
    # Newcombe (1998), Statistics in Medicine 17, table I: 81 of 263 gives 0.2553 to 0.3662.
    assert html.interval(81 / 263, 263) == "25.5–36.6\xa0%"
    assert html.interval(0.5, None) is None


def test_ticks_are_round_and_inside() -> None:
    linear = plots.Scale(0.043, 0.187, 0, 100).ticks(6)
    assert [label for _, label in linear] == ["0.050", "0.075", "0.100", "0.125", "0.150", "0.175"]
    logarithmic = plots.Scale(0.04, 0.5, 0, 100, log=True).ticks(5)
    assert [label for _, label in logarithmic] == ["0.05", "0.1", "0.2", "0.5"]


def test_importing_the_report_is_cheap() -> None:
    heavy = "{'plotly', 'numpy', 'jinja2', 'torch', 'onnx', 'onnxruntime', 'nncf'}"
    code = f"import sys, edgenas.report; print(sorted({heavy} & set(sys.modules)))"
    environment = os.environ | {"PYTHONPATH": str(Path(edgenas.__file__).parents[1])}
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert ran.stdout.strip() == "[]"


@pytest.mark.parametrize(("percent", "is_below"), [(84.3, True), (90.0, False)])
def test_the_label_of_the_chosen_keeps_off_the_front(percent: float, is_below: bool) -> None:
    """A winner that shared weights thought less of lies under the stair, and so does its label."""
    front = [plots.Point(0.02, 66.0), plots.Point(0.09, 86.1)]
    chosen = plots.Point(0.1, percent)
    drawn = plots.pareto([(0.05, 50.0)], front, chosen, "chosen: here", None, "ms", "%", "a front").wide
    ring = re.search(r'<circle class="chosen [^>]*cy="([\d.]+)"', drawn)
    label = re.search(r'<text class="label"[^>]* y="([\d.]+)"[^>]*>chosen: here', drawn)
    assert ring and label, drawn
    assert (float(label[1]) > float(ring[1])) == is_below
