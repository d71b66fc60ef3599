"""Files of a space's settings: there and back, and every mistake in one said with its line and key."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edgenas import cli, device
from edgenas.artifacts.device_spec import SLOW, Rules
from edgenas.errors import InputError
from edgenas.spaces import catalog, mobile, tree
from edgenas.spaces.cell_stack import CellStack
from edgenas.spaces.mobile import MobileSpace
from edgenas.spaces.offer import Device, Offer, offer_of
from edgenas.spaces.space import SearchSpace
from edgenas.spaces.space_file import settings_of, text_of
from edgenas.spaces.trainable import NAMES, space_for
from edgenas.spaces.tree_grammar import Grammar
from tests.test_slim import write_photos

X86 = Offer(width_multiple=16)
RICH = Offer(("relu", "hard_swish"), squeeze_excite=True, depthwise_7x7=True)

SPACES: dict[str, SearchSpace] = {
    **{f"{name}, {px} px": space_for(name, px, 3, 5) for name in NAMES for px in (28, 96)},
    "mobile, gates": mobile.for_data(64, 3, 5, RICH),
    "mobile, one of everything": MobileSpace(3, 5, (32,), (16,), ((1, 2),), (mobile.Stage(("plain",)),), ("flatten",)),
    "cell, others": CellStack(3, 5, (32,), (0, 1), ((16, 48),), ((1, 3),), ("none", "sep_conv_3x3"), nodes=3),
    "tree, others": replace(tree.for_data(32, 3, 5), grammar=Grammar(("conv3",), ("add",), depth=2, arity=3)),
    "catalog, others": replace(catalog.for_data(32, 3, 5, RICH), families=("plain", "resnet8")),
}


def known(device_id: str, int8: bool = True) -> Device:
    return Device(device.load(device_id).rules, int8, is_measured=True)


def read(path: Path, px: int, offer: Offer = X86) -> SearchSpace:
    return space_for(str(path), px, 3, 5, offer)


def written(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES.keys())
def test_a_written_space_is_read_as_it_was(space: SearchSpace, tmp_path: Path) -> None:
    text = text_of(space)
    assert text is not None
    px = max(settings["resolutions_px"]) if (settings := settings_of(space)) else 0
    again = read(written(tmp_path, text), px, replace(RICH, runs=("relu", "relu6", "hard_swish")))
    assert again == space
    assert again.id == space.id


@pytest.mark.parametrize("name", NAMES)
def test_what_is_left_out_is_as_it_is_made_for_the_data(name: str, tmp_path: Path) -> None:
    assert read(written(tmp_path, f"space: {name}\n"), 48) == space_for(name, 48, 3, 5, X86)


def test_one_choice_can_be_changed_alone(tmp_path: Path) -> None:
    found = read(written(tmp_path, "space: mobile\nheads: [flatten]\n"), 28)
    assert isinstance(found, MobileSpace)
    assert found == replace(mobile.for_data(28, 3, 5), heads=("flatten",))


def test_what_is_slow_may_be_asked_for(tmp_path: Path) -> None:
    text = "space: mobile\nactivations: [relu, hard_swish]\nsqueeze_excite: [false, true]\n"
    found = read(written(tmp_path, text), 28)
    assert isinstance(found, MobileSpace)
    assert found.activations == ("relu", "hard_swish")


STAGE = "{types: [plain], depths: [1], kernels: [3], expands: [1], widths: %s}"


@pytest.mark.parametrize(
    ("text", "place", "sentence"),
    [
        ("space: mobile\nheads: []\n", "line 2, heads", "the choice has no options"),
        ("space: mobile\n\nstem_widths:\n", "line 3, stem_widths", "Input should be a valid"),
        ("space: cell\nwidths: [[16], []]\n", "line 2, widths.1", "the choice has no options"),
        ("space: mobile\nstages:\n- " + STAGE % "[]", "line 3, stages.0.widths", "the choice has no options"),
        ("space: mobile\nstem_widths: [16, 24]\n", "line 2, stem_widths.1", "24 channels .* multiples of 16\nTake 16 or"),
        ("space: tree\nwidths: [[16], [16], [8]]\n", "line 2, widths.2.0", "8 channels .* multiples of 16\nTake 16."),
        ("space: cell\nwidths: [[32], [40], [48]]\n", "line 2, widths.1.0", "40 channels .*\nTake 32 or 48"),
        ("space: mobile\nhaeds: [pool]\n", "line 2, haeds", "there is no such key"),
        ("space: mobile\nheads: [pool]\nheads: [flatten]\n", "line 3, heads", "twice"),
        ("space: mobile\nheads: [pool, pool]\n", "line 2, heads", "'pool' is there twice"),
        ("space: mobile\nheads: pool\n", "line 2, heads", "valid array"),
        ("space: mobile\nstem_widths: ['16']\n", "line 2, stem_widths.0", "valid integer"),
        ("space: mobile\nstem_widths: [0]\n", "line 2, stem_widths.0", "greater than or equal to 1"),
        ("space: mobile\nstem_widths: [32, 16]\n", "line 2, stem_widths", "have to rise"),
        ("space: mobile\nheads: [flaten]\n", "line 2, heads.0", "there is no 'flaten'\nDid you mean 'flatten'"),
        ("space: mobile\nstages:\n- {types: [plain]}\n", "line 3, stages.0.depths", "this key is missing"),
        ("space: cell\noperations: [nor_conv_3x3, shuffle]\n", "line 2, operations.1", "there is no 'shuffle'"),
        ("space: cell\noperations: [none]\n", "mine.yaml", "compute nothing"),
        ("space: cell\nnodes: 6\n", "mine.yaml", "more than 100,000"),
        ("space: cell\nnodes: 200\n", "mine.yaml", "more than 100,000"),
        ("space: mobile\nstem_widths: [16, -3]\n", "line 2, stem_widths.1", "greater than or equal to 1"),
        ("", "mine.yaml", "found an empty file"),
        ("space: cell\nstem_halvings: [1, 4]\n", "line 2, stem_halvings.1", "28 px can't be halved 6 times"),
        ("space: mobile\ndownsampling: [[1, 2, 2]]\n", "line 2, downsampling.0", "needs 4 strides.* but got 3"),
        ("space: mobile\ndownsampling: [[1, 2, 3, 1]]\n", "line 2, downsampling.0.2", "should be 1 or 2"),
        (
            "space: mobile\nstages: [" + ", ".join([STAGE % "[16]"] * 6) + "]\ndownsampling: [[2, 2, 2, 2, 2, 2, 2]]\n",
            "line 3, downsampling.0",
            "can't be halved 7 times",
        ),
        ("space: mobile\nresolutions_px: [32]\n", "line 2, resolutions_px", "that of the images, 28 px, but is 32"),
        ("space: tree\ngrammar: {operations: [conv3], combiners: [sequence], depth: 2, arity: 2}\n", "combiners.0", "no 'seq"),
        ("space: catalog\nfamilies: [resnet9]\n", "line 2, families.0", "Did you mean 'resnet8'"),
        ("space: slim\n", "line 1, space", "expected one of mobile, cell, tree, catalog"),
        ("heads: [pool]\n", "line 1", "the key space is missing"),
        ("- mobile\n", "mine.yaml", "expected the keys of a search space"),
        ("space: [mobile\n", "line 2", "not valid YAML"),
    ],
)  # fmt: skip
def test_a_mistake_is_said_with_its_place(text: str, place: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=sentence) as caught:
        read(written(tmp_path, text), 28)
    assert "mine.yaml" in caught.value.message
    assert place in caught.value.message
    assert caught.value.hint


def test_a_file_that_is_not_there_is_named() -> None:
    with pytest.raises(InputError, match=r"there is no file .*none.yaml"):
        read(Path("none.yaml"), 28)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("activations: [relu, hard_swish]", "line 2, activations.1"),
        ("squeeze_excite: [true]", "line 2, squeeze_excite"),
    ],
)
def test_what_a_device_does_not_run_is_refused(text: str, place: str, tmp_path: Path) -> None:
    coral = offer_of([known("coral-edge-tpu")])
    with pytest.raises(InputError, match="the device doesn't run") as caught:
        read(written(tmp_path, f"space: mobile\n{text}\n"), 28, coral)
    assert place in caught.value.message


class TestOffer:
    def test_several_devices_offer_what_none_is_slow_at(self) -> None:
        pi, orin, nano = known("raspberry-pi-5"), known("jetson-orin-nano"), known("jetson-nano", int8=False)
        assert offer_of([pi]) == Offer(("relu", "relu6", "hard_swish"), True, True, 8)
        assert offer_of([pi, orin]) == Offer(("relu", "relu6", "hard_swish"), False, False, 8)
        assert offer_of([nano, pi]) == Offer(("relu", "relu6"), False, False, 8, runs=("relu", "relu6"))
        assert offer_of([known("x86-64-avx2")]) == Offer(width_multiple=16)

    def test_what_was_never_measured_there_is_not_offered(self) -> None:
        assert offer_of([replace(known("raspberry-pi-5"), is_measured=False)]) == Offer(width_multiple=8)

    def test_a_multiple_counts_where_int8_is_used(self) -> None:
        rules = Rules(int8_channel_multiple=24, activations=("relu",), squeeze_excite=False, source="test")
        pi = known("raspberry-pi-4")
        found = [offer_of([Device(rules, int8, True), pi]).width_multiple for int8 in (True, False)]
        assert found == [24, 8]

    def test_what_has_to_be_detected_is_not_offered(self) -> None:
        host = known("host")
        assert (host.rules.slow, host.rules.int8_channel_multiple) == ("detected", "detected")
        assert offer_of([host]) == Offer()

    @pytest.mark.parametrize(("machine", "slow"), [("x86_64", SLOW), ("aarch64", ())])
    def test_what_is_slow_is_detected(self, machine: str, slow: tuple[str, ...]) -> None:
        probe = {
            "machine": machine,
            "cpu_name": "a processor",
            "isa": [],
            "cores": 2,
            "ram_mib": 100,
            "runtime_versions": {"onnxruntime": "1.32.0"},
        }
        assert device.resolve(device.load("host"), probe).rules.slow == slow

    def test_the_spaces_of_a_device_that_is_slow_at_all_of_it_stay_as_they_were(self) -> None:
        for name in NAMES:
            assert space_for(name, 28, 1, 10, X86).id == space_for(name, 28, 1, 10).id

    @pytest.mark.parametrize("name", ["mobile", "cell", "tree"])
    def test_widths_are_rounded_up_to_what_the_device_needs(self, name: str) -> None:
        network = space_for(name, 64, 3, 5, Offer(width_multiple=64))
        widths = [value for key, value in (settings_of(network) or {}).items() if "widths" in key or key == "stages"]
        text = str(widths)
        assert "64" in text
        assert not any(f"{width}," in text or f"{width}]" in text for width in (16, 32, 48, 96))
        assert network.network(network.largest()).output_name

    def test_large_kernels_are_for_large_images(self) -> None:
        kernels = {px: mobile.for_data(px, 3, 5, RICH).stages[0].kernels for px in (28, 96)}
        assert kernels == {28: (3, 5), 96: (3, 5, 7)}


@pytest.mark.parametrize(
    ("command", "text", "sentence"),
    [
        ("search", "space: mobile\nheads: []\n", "mine.yaml, line 2, heads: the choice has no options"),
        ("build", "space: mobile\nactivations: [swish]\n", "mine.yaml, line 2, activations.0: there is no 'swish'"),
    ],
)
def test_the_command_line_refuses_it_at_once(
    command: str,
    text: str,
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_photos(tmp_path / "photos")
    path, out = written(tmp_path, text), tmp_path / "out"
    arguments = ["--device", "host", "--data", str(tmp_path / "photos"), "--space", str(path), "--out", str(out)]
    monkeypatch.setattr("sys.argv", ["edgenas", command, *arguments])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 2
    assert sentence in capsys.readouterr().err
    assert not out.exists()
