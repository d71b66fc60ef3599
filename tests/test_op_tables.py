"""Tables of operations that others measured: read into kernels, refused with the line, and benchmarked."""

from __future__ import annotations

import csv
import gzip
import importlib
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from edgenas.artifacts.kernel import Kernel
from edgenas.errors import InputError
from edgenas.latency.op_tables import kernel_of, read_networks_ms, read_operations

ROOT = Path(__file__).resolve().parents[1]
COLUMNS = ("model", "operation", "feature", "a|gpu|float", "a|gpu|kernel", "b|gpu|float", "b|gpu|kernel")
PUBLISHED = os.environ.get("EDGENAS_OP_TABLES", "")
OPS, NETWORKS = "mobile_gpu_ops_us.csv.gz", "mobile_gpu_networks_us.csv.gz"


def feature(**given: object) -> str:
    plain = dict.fromkeys(("Input_shape", "Output_shape", "Stride", "Kernel", "Filter", "Group", "FLOPS"), "-")
    return str({**plain, "Input_channel": 8, **given})


CONV = feature(Input_shape="14", Output_shape="14", Stride="1", Kernel="3", Filter="16", Group="1")


def table(path: Path, rows: Sequence[tuple[str, ...]], columns: tuple[str, ...] = COLUMNS) -> Path:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([columns, *rows])
    data = text.getvalue().encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def row(
    name: str = "net1", us: str = "12.5", kernel: str = "convolution_2d_0", shapes: str = CONV, op: str = "CONV_2D"
) -> tuple[str, ...]:
    return (name, op, shapes, us, kernel, "7", "convolution_2d_0_linked_:_relu_1")


class TestKernelOf:
    @pytest.mark.parametrize(
        ("operation", "shapes", "expected"),
        [
            ("CONV_2D", CONV, Kernel("Conv", (8, 14, 14), (16, 14, 14), (3, 3), (1, 1), (1, 1), (1, 1, 1, 1))),
            (
                "CONV_2D",  # SAME in TensorFlow's way: the odd column at the end
                feature(Input_shape="14", Output_shape="7", Stride="2", Kernel="3", Filter="16", Group="1"),
                Kernel("Conv", (8, 14, 14), (16, 7, 7), (3, 3), (2, 2), (1, 1), (0, 0, 1, 1)),
            ),
            (
                "CONV_2D_GROUP",
                feature(Input_shape="16", Output_shape="14", Stride="1", Kernel="3", Filter="24", Group="4"),
                Kernel("Conv", (8, 16, 16), (24, 14, 14), (3, 3), (1, 1), (1, 1), (0, 0, 0, 0), 4),
            ),
            (
                "DEPTHWISE_CONV_2D",
                feature(Input_shape="16", Output_shape="14", Stride="1", Kernel="3", Filter="1", Group="1"),
                Kernel("Conv", (8, 16, 16), (8, 14, 14), (3, 3), (1, 1), (1, 1), (0, 0, 0, 0), 8),
            ),
            ("FULLY_CONNECTED", feature(Filter="10"), Kernel("Gemm", (8,), (10,))),
            ("MEAN", feature(Input_shape="7", Output_shape="8"), Kernel("GlobalAveragePool", (8, 7, 7), (8, 1, 1))),
            (
                "AVERAGE_POOL_2D",
                feature(Input_shape="7", Output_shape="1", Kernel="7", Stride="1"),
                Kernel("GlobalAveragePool", (8, 7, 7), (8, 1, 1)),
            ),
            (
                "MAX_POOL_2D",
                feature(Input_shape="8", Output_shape="4", Kernel="2", Stride="2"),
                Kernel("MaxPool", (8, 8, 8), (8, 4, 4), (2, 2), (2, 2), (1, 1), (0, 0, 0, 0)),
            ),
            (
                "CONCATENATION",
                feature(Input_shape="7", Output_shape="7", Kernel="2", Filter="20"),
                Kernel("Concat", (8, 7, 7), (20, 7, 7)),
            ),
        ],
    )
    def test_operations_become_onnx_kernels(self, operation: str, shapes: str, expected: Kernel) -> None:
        found = kernel_of(operation, shapes, [])
        assert found == Kernel(**{**{f: getattr(expected, f) for f in Kernel.__slots__}, "precision": "fp16"})

    def test_links_are_read_from_whichever_device_shows_them(self) -> None:
        names = ["convolution_winograd_4x4_6x6_1", "convolution_2d_1_linked_:_add_2_linked_:_hard_swish_3"]
        assert kernel_of("CONV_2D", CONV, names).fused == ("Add", "HardSwish")
        assert kernel_of("CONV_2D", CONV, names[:1]) == kernel_of("CONV_2D", CONV, []), "how it is executed is not read"

    @pytest.mark.parametrize(
        ("operation", "shapes", "name", "said"),
        [
            ("LSTM", CONV, "", "the operation 'LSTM' is not one of CONV_2D"),
            ("CONV_2D", feature(Input_shape="14"), "", "Output_shape is '-', but a whole number"),
            ("CONV_2D", "{}", "", "the features lack 'Input_channel'"),
            ("CONV_2D", "[1]", "", "are not a dictionary"),
            ("CONV_2D", CONV.replace("'16'", "'0'"), "", "Filter is 0, but at least 1"),
            ("CONV_2D", CONV.replace("'Group': '1'", "'Group': '3'"), "", "can't be parted into 3 groups"),
            ("CONV_2D", CONV, "convolution_2d_0_linked_:_what_1", "links 'what', which is not known"),
        ],
    )
    def test_what_cannot_be_read_is_named(self, operation: str, shapes: str, name: str, said: str) -> None:
        with pytest.raises(ValueError, match=said.replace("[", r"\[")):
            kernel_of(operation, shapes, [name])

    @given(
        channels=st.integers(1, 64),
        filters=st.integers(1, 64),
        side=st.integers(1, 64),
        kernel=st.integers(1, 7),
        stride=st.integers(1, 3),
    )
    def test_padding_gives_the_size_that_came_out(
        self, channels: int, filters: int, side: int, kernel: int, stride: int
    ) -> None:
        out = -(-side // stride)
        shapes = feature(
            Input_shape=side,
            Output_shape=out,
            Input_channel=channels,
            Stride=stride,
            Kernel=kernel,
            Filter=filters,
            Group=1,
        )
        found = kernel_of("CONV_2D", shapes, [])
        padded = side + found.pads[0] + found.pads[2]
        assert (padded - kernel) // stride + 1 == out
        assert found.macs == out * out * channels * filters * kernel * kernel
        assert 0 <= found.pads[2] - found.pads[0] <= 1


class TestReading:
    @pytest.mark.parametrize("name", ["ops.csv", "ops.csv.gz"])
    def test_a_network_has_its_operations_in_order(self, tmp_path: Path, name: str) -> None:
        path = table(
            tmp_path / name,
            [row(), row(op="FULLY_CONNECTED", shapes=feature(Filter="10"), us="3"), row("net2", us="8")],
        )
        found = read_operations(path, "a")
        assert list(found.networks) == ["net1", "net2"]
        assert [(each.kernel.op, each.ms) for each in found.networks["net1"]] == [("Conv", 0.0125), ("Gemm", 0.003)]
        conv = found.networks["net1"][0].kernel
        assert conv.fused == ("Relu",)
        times = found.times_ms(["net1", "net2"])
        assert times[conv] == pytest.approx(0.01), "the geometric mean of 12.5 and 8 us"

    def test_a_network_that_lacks_a_time_is_left_out(self, tmp_path: Path) -> None:
        path = table(tmp_path / "ops.csv", [row(), row(us=""), row("net2")])
        assert list(read_operations(path, "a").networks) == ["net2"]

    @pytest.mark.parametrize(
        ("bad", "said"),
        [
            (row(us="fast"), "line 3: could not convert"),
            (row(us="-1"), "line 3: the time '-1' is not a number > 0"),
            (row(shapes="{'a': "), "line 3: the features are not a dictionary"),
            (row(op="LSTM"), "line 3: the operation 'LSTM'"),
            (("net1",), "line 3: it has more or fewer cells"),
        ],
    )
    def test_a_row_that_cannot_be_read_is_named(self, tmp_path: Path, bad: tuple[str, ...], said: str) -> None:
        with pytest.raises(InputError, match=said):
            read_operations(table(tmp_path / "ops.csv", [row(), bad]), "a")

    def test_files_that_are_something_else_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="can't be read"):
            read_operations(tmp_path / "nothing.csv", "a")
        with pytest.raises(InputError, match=r"columns .* are missing"):
            read_operations(table(tmp_path / "x.csv", [("1", "2")], ("model", "b")), "a")
        with pytest.raises(InputError, match="column of times was expected for the device 'c'") as raised:
            read_operations(table(tmp_path / "ops.csv", [row()]), "c")
        assert "a, b" in raised.value.hint

    def test_whole_networks(self, tmp_path: Path) -> None:
        columns = ("model", "device", "mean_us")
        path = table(tmp_path / "n.csv", [("net1", "a", "1500"), ("net1", "b", "2"), ("net2", "a", "2500")], columns)
        assert read_networks_ms(path, "a") == {"net1": 1.5, "net2": 2.5}
        for rows, said in [
            ([("net1", "a", "1"), ("net1", "a", "2")], "line 3: 'net1' stands twice"),
            ([("net1", "a", "soon")], "line 2: the time 'soon' is not a number"),
            ([("net1", "a", "0")], "line 2: 'net1' stands twice, or its time is not"),
            ([("net1", "b", "1")], "no network of the device 'a'"),
        ]:
            with pytest.raises(InputError, match=said):
                read_networks_ms(table(tmp_path / "n.csv", rows, columns), "a")


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    return importlib.import_module("bench_op_tables")


def written(folder: Path) -> tuple[Path, Path]:
    """A made-up device: 24 networks of eight families."""
    rng = np.random.default_rng(3)
    rows, wholes = [], []
    for i in range(24):
        name, total = f"{'abcdefgh'[i // 3]}net{i % 3}", 0.0
        for layer in range(8):
            c, side = int(rng.choice([8, 16, 24, 32])), int(rng.choice([7, 14, 28]))
            shapes = feature(
                Input_channel=c, Input_shape=side, Output_shape=side, Stride=1, Kernel=3, Filter=c * 2, Group=1
            )
            us = 5 + side * side * c * c * 18 / 1e4
            total += us
            rows.append(
                (name, "CONV_2D", shapes, f"{us}", f"convolution_2d_{layer}", f"{us}", f"convolution_2d_{layer}")
            )
        wholes.append((name, "a", f"{1.1 * total + 100}"))
    return table(folder / "ops.csv.gz", rows), table(folder / "networks.csv", wholes, ("model", "device", "mean_us"))


class TestTool:
    def run(self, tool: ModuleType, *options: str) -> Any:
        return CliRunner().invoke(tool.main, list(options))

    def test_it_reports_for_people_and_for_programs(self, tool: ModuleType, tmp_path: Path) -> None:
        ops, networks = written(tmp_path)
        options = ("--ops", str(ops), "--networks", str(networks), "--device", "a", "--training", "15", "--splits", "3")
        found = json.loads(self.run(tool, *options, "--json").stdout)
        assert found["networks"] == 24
        assert found["families"] == 8
        assert len(found["splits"]) == 3
        assert found["within_10pct"] == found["mean"]["predictor"]["within_10pct"] > 0.9
        for split in found["splits"]:
            assert split["fitted"] + split["unseen"] == 24
            assert set(split["networks"]) & {n for n in split["networks"] if n[0] in split["families_unseen"]} == set()
            assert split["methods"]["from measured operations"]["within_5pct"] > 0.9
        assert json.loads(self.run(tool, *options, "--json").stdout) == found, "the same again"
        read = self.run(tool, *options)
        assert read.exit_code == 0
        assert "24 networks of 8 architecture families, 3 splits" in read.stdout
        assert "affine in MACs" in read.stdout

    def test_bad_input_is_exit_code_2(self, tool: ModuleType, tmp_path: Path) -> None:
        ops, networks = written(tmp_path)
        files = ("--ops", str(ops), "--networks", str(networks))
        for options, said in [
            ((*files, "--device", "z"), "Devices of this file: a, b"),
            ((*files, "--device", "a", "--training", "15", "--splits", "999"), "different splits"),
            (("--ops", str(tmp_path / "no"), "--networks", str(networks), "--device", "a"), "can't be read"),
        ]:
            run = self.run(tool, *options)
            assert run.exit_code == 2
            assert said in run.stderr

    def test_no_family_stands_on_both_sides_of_a_split(self, tool: ModuleType) -> None:
        names = [
            "resnet18",
            "seresnet18",
            "preresnetbc14b",
            "resnext14_16x4d",
            "sepreresnet10",
            *(f"n{i}et" for i in range(3)),
        ]
        names += [
            "mobilenet_w1",
            "mobilenetb_wd2",
            "fdmobilenet_w1",
            "mobilenetv2b_w1",
            "mobilenetv3_small_w1",
            "dla46c",
        ]
        family = tool.architecture_family
        assert {family(n) for n in names[:5]} == {"resnet"}
        assert {family(n) for n in names[8:11]} == {"mobilenet v1"}
        assert len({family(n) for n in names[10:]}) == 4
        for fitted in tool.grouped_splits(names, 8, 5):
            unseen = set(names) - set(fitted)
            assert not {family(n) for n in fitted} & {family(n) for n in unseen}

    @pytest.mark.heavy
    @pytest.mark.skipif(not PUBLISHED, reason=f"EDGENAS_OP_TABLES names no folder with {OPS} and {NETWORKS}")
    @pytest.mark.parametrize(("device", "within_10pct"), [("pixel4", 0.9), ("mi8se", 0.92), ("iphone7", 0.91)])
    def test_unseen_architectures_of_the_published_tables(
        self, tool: ModuleType, device: str, within_10pct: float
    ) -> None:
        folder = Path(PUBLISHED)
        run = self.run(
            tool, "--ops", str(folder / OPS), "--networks", str(folder / NETWORKS), "--device", device, "--json"
        )
        assert run.exit_code == 0, run.stderr
        found = json.loads(run.stdout)
        assert found["networks"] == 102
        assert found["within_10pct"] >= within_10pct
        assert found["spearman"] > 0.98
