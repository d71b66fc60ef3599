"""A user's own model: read without changing what it computes, parted into groups as torch-pruning does, and built smaller."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from edgenas import cli, data
from edgenas.data import Dataset
from edgenas.errors import InputError
from edgenas.nets.channel_groups import module_groups
from edgenas.nets.channel_selection import with_channels
from edgenas.nets.given_weights import give_statistics, with_weights
from edgenas.nets.module import NetworkModule, extract
from edgenas.network.builder import INPUT, Builder
from edgenas.network.channels import channel_groups
from edgenas.network.graph import Network
from edgenas.network.residual_blocks import residual_blocks, without_blocks
from edgenas.onnxio.from_torch import from_torch, module_of
from edgenas.pipeline.build import build
from edgenas.pipeline.request import BuildRequest
from edgenas.progress import Progress
from edgenas.spaces.blocks import mbconv, residual
from edgenas.spaces.slim import for_model, width_options
from edgenas.supernet.given_model import GivenModel, agreed, check_parity, given_model
from edgenas.supernet.train import stage_ends
from tests import own_nets
from tests.test_build import EFFORT, write_photos

SHAPE = (1, 3, 28, 28)
MODELS: dict[str, Callable[[], nn.Module]] = {
    "resnet": own_nets.resnet,
    "mobilenet": own_nets.mobilenet,
    "odd": own_nets.odd,
}
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


def converted(module: nn.Module) -> NetworkModule:
    return with_weights(*from_torch(module, SHAPE, "the model"))


@pytest.fixture(scope="module", params=MODELS)
def pair(request: pytest.FixtureRequest) -> tuple[nn.Module, NetworkModule]:
    """A module and what it was turned into."""
    module = MODELS[request.param]()
    return module, converted(module)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("slim") / "photos"
    write_photos(folder)
    return data.load(str(folder), sample_dir=folder, max_resolution_px=28)


@pytest.fixture(scope="module")
def given_resnet(dataset: Dataset) -> GivenModel:
    return given_model("tests.own_nets:resnet", dataset)


def images(seed: int = 0, count: int = 64) -> torch.Tensor:
    return torch.randn(count, *SHAPE[1:], generator=torch.Generator().manual_seed(seed))


class TestConversion:
    def test_the_network_computes_what_the_module_does(self, pair: tuple[nn.Module, NetworkModule]) -> None:
        module, network_module = pair
        with torch.no_grad():
            assert torch.allclose(module(images()), network_module(images()), **CLOSE)
        assert check_parity(module, network_module, images(1), "the model") < 1e-4

    def test_nodes_are_called_after_their_modules(self, pair: tuple[nn.Module, NetworkModule]) -> None:
        module, network_module = pair
        for node in network_module.network.nodes:
            if node.op == "Conv":
                conv = module.get_submodule(module_of(node.name))
                assert isinstance(conv, nn.Conv2d)
                assert network_module.network.weight_shape(node) == tuple(conv.weight.shape)

    def test_statistics_change_no_logit_and_are_those_of_the_images(
        self, pair: tuple[nn.Module, NetworkModule]
    ) -> None:
        module = converted(pair[0])
        with torch.no_grad():
            before = module(images(2))
            give_statistics(module, images())
            assert torch.allclose(module(images(2)), before, **CLOSE)
            assert torch.allclose(module.train()(images()), pair[1](images()), rtol=1e-2, atol=1e-2)

    def test_a_difference_is_refused_with_its_size(self) -> None:
        module = own_nets.resnet()
        wrong = converted(module)
        with torch.no_grad():
            wrong.linear("logits").bias += 7
        with pytest.raises(InputError, match=r"differ from the module's by up to 7(\.0\d*)?, more than"):
            check_parity(module, wrong, images(), "the model")

    def test_a_module_that_is_used_twice_is_two_layers(self) -> None:
        torch.manual_seed(1)
        relu, conv = nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1)
        module = own_nets.Then(nn.Sequential(conv, relu, conv, relu)).eval()
        twice = converted(module)
        assert check_parity(module, twice, images(), "the model") < 1e-4
        assert sum(node.op == "Conv" for node in twice.network.nodes) == 3


class TestGroups:
    @pytest.mark.parametrize("name", ["resnet", "mobilenet"])
    def test_torch_pruning_and_our_own_arithmetic_agree(self, name: str) -> None:
        module = MODELS[name]()
        network, _ = from_torch(module, SHAPE, "the model")
        ours = {frozenset(map(module_of, names)) for names in channel_groups(network)}
        assert ours == {group.convs for group in module_groups(module, SHAPE, "the model")}
        assert len(agreed(network, module_groups(module, SHAPE, "the model"))) == len(ours) > 5

    def test_joined_and_grouped_channels_keep_their_width(self) -> None:
        module = own_nets.odd()
        network, _ = from_torch(module, SHAPE, "the model")
        groups = agreed(network, module_groups(module, SHAPE, "the model"))
        assert [names for names, _ in groups] == [("first/Conv",), ("last/Conv",)]

    def test_importance_ranks_channels_by_their_weights(self) -> None:
        module = own_nets.resnet()
        conv, norm = module.stage1[0].body[0], module.stage1[0].body[1]
        with torch.no_grad():
            factors = torch.linspace(0.1, 2, 16)[torch.randperm(16, generator=torch.Generator().manual_seed(3))]
            conv.weight.copy_(torch.ones_like(conv.weight) * factors.reshape(-1, 1, 1, 1))
            norm.weight.copy_(factors)
            module.stage1[0].body[3].weight.fill_(0.1)
        found = next(g for g in module_groups(module, SHAPE, "the model") if g.convs == {"stage1.0.body.0"})
        assert np.argsort(found.importance).tolist() == torch.argsort(factors).tolist()

    def test_a_product_ties_and_what_is_broadcast_does_not_change(self) -> None:
        b = Builder((1, 3, 8, 8))
        x = b.conv("x", INPUT, 16)
        gate = b.conv("gate", b.global_average_pool("pool", b.conv("other", INPUT, 8)), 16)
        y = b.node("mul", "Mul", (x, gate), b.shape(x))
        per_pixel = b.node("map", "Mul", (b.conv("one", y, 1), b.conv("y", y, 16)), b.shape(x))
        network = b.finish(b.linear("fc", b.flatten("flat", per_pixel), 2))
        assert channel_groups(network) == (("x", "gate"), ("other",))


@settings(max_examples=12)
@given(seed=st.integers(0, 2**31), name=st.sampled_from(["resnet", "mobilenet", "odd"]))
def test_channels_in_any_order_compute_the_same_and_dead_ones_can_go(seed: int, name: str) -> None:
    """Of the user's model with some channels silenced, exactly the network without them."""
    module, rng = converted(MODELS[name]()), np.random.default_rng(seed)
    network = module.network
    kept: dict[str, torch.Tensor] = {}
    silent: dict[str, torch.Tensor] = {}
    for group in channel_groups(network):
        full = network.by_name[group[0]].shape[1]
        order = torch.from_numpy(rng.permutation(full))
        count = int(rng.integers(2, full + 1))
        kept |= dict.fromkeys(group, order[:count])
        silent |= dict.fromkeys(group, order[count:])
    with torch.no_grad():
        made: dict[str, torch.Tensor] = {}
        for node in network.nodes:
            before = [made[name] for name in node.inputs if name in made]
            if node.op == "Conv":
                dead = before[0] if node.is_depthwise and before else silent.get(node.name)
                if dead is not None:
                    for part in (module.conv(node.name).weight, *module.conv(node.name).per_channel()[:3]):
                        part[dead] = 0
                    made[node.name] = dead
            elif node.op not in ("Concat", "Gemm", "Flatten") and before:
                made[node.name] = before[0]
        wanted, found = module(images(count=4)), with_channels(module, kept).eval()(images(count=4))
    assert torch.allclose(wanted, found, **CLOSE)


class TestBlocks:
    def test_a_block_that_adds_nothing_can_go(self) -> None:
        module = converted(own_nets.resnet())
        blocks = residual_blocks(module.network)
        assert [module_of(block.end) for block in blocks] == ["stage1.0", "stage1.1", "stage2.1"]
        with torch.no_grad():
            for block in blocks:
                last = [node for node in module.network.nodes if node.name in block.members and node.op == "Conv"][-1]
                module.conv(last.name).weight.zero_()
                module.conv(last.name).beta.zero_()
            shorter = NetworkModule(without_blocks(module.network, blocks)).eval()
            shorter.load_state_dict({k: v for k, v in module.state_dict().items() if k in shorter.state_dict()})
            assert torch.allclose(module(images()), shorter(images()), **CLOSE)
        assert len(shorter.network.nodes) == len(module.network.nodes) - 3 * 5

    def test_a_skip_that_is_looked_into_or_activated_anew_stays(self) -> None:
        def net(activation: str | None, peek: bool) -> Network:
            b = Builder((1, 8, 8, 8))
            x = b.conv("stem", INPUT, 8)
            y = b.conv("branch", x, 8, 3)
            z = b.add("sum", x, y)
            z = b.activation("act", z, activation) if activation else z
            z = b.add("peek", z, y) if peek else z
            return b.finish(b.linear("fc", b.flatten("flat", b.conv("last", z, 8)), 2))

        assert len(residual_blocks(net(None, False))) == 1
        assert residual_blocks(net("Relu", False)) == ()  # the stem's output never went through a ReLU
        assert residual_blocks(net(None, True)) == ()

    def test_nested_blocks_go_together(self) -> None:
        b = Builder((1, 16, 8, 8))
        x = b.conv("stem", INPUT, 16)
        inner = mbconv(b, "inner", b.activation("outer/relu", b.conv("outer/a", x, 16)), 16, 3, 2, 1)
        x = b.add("outer/sum", b.conv("outer/b", inner, 16), x)
        network = b.finish(b.linear("fc", b.flatten("flat", b.conv("last", x, 16)), 2))
        blocks = residual_blocks(network)
        assert [block.end for block in blocks] == ["inner/relu3", "outer/sum"]
        space = for_model(network, channel_groups(network))
        left_out = space.subnet((1, 0, *(1 for _ in space.groups)))
        assert left_out.genome[0] == 0
        assert {node.name for node in space.network(left_out).nodes} == {"stem", "last", "flat", "fc"}


class TestSpace:
    @given(full=st.integers(1, 600), multiple=st.sampled_from([8, 16]))
    def test_widths_are_multiples_up_to_the_full_one(self, full: int, multiple: int) -> None:
        *below, last = width_options(full, multiple)
        assert last == full
        assert below == sorted(set(below))
        assert len(below) <= 5
        assert all(width % multiple == 0 and full / 4 <= width < full for width in below)
        assert len(below) > 0 or full <= multiple

    def test_the_largest_is_the_model_and_the_multiple_is_kept(self) -> None:
        b = Builder((1, 3, 32, 32))
        x = residual(b, "b", residual(b, "a", INPUT, 64, 3, 1, 2), 64, 3, 1, 1)
        network = b.finish(b.linear("fc", b.flatten("flat", b.global_average_pool("pool", x)), 10))
        space = for_model(network, channel_groups(network), multiple=16)
        assert space.network(space.largest()) == network
        assert {group.widths for group in space.groups} == {(16, 32, 48, 64)}

    def test_a_model_without_choices_is_refused(self) -> None:
        b = Builder((1, 3, 8, 8))
        network = b.finish(b.linear("fc", b.flatten("flat", b.conv("conv", INPUT, 8)), 2))
        with pytest.raises(InputError, match="nothing of the model can be made smaller"):
            for_model(network, channel_groups(network))

    def test_a_stage_that_is_left_out_ends_where_the_one_before_does(self) -> None:
        network, _ = from_torch(own_nets.resnet(), SHAPE, "the model")
        space = for_model(network, channel_groups(network))
        whole, least = (stage_ends(space, space.network(s)) for s in (space.largest(), *space.smallest()))
        stem = space.segment_members(network)[0][-1]
        assert len(whole) == len(least) == len(set(whole)) == 4  # the stem's end isn't one of them
        assert stem not in whole
        assert least == [stem, stem, whole[2], whole[2]]


class TestGivenModel:
    def test_the_sorted_model_computes_what_the_module_does(self, given_resnet: GivenModel) -> None:
        with torch.no_grad():
            assert torch.allclose(own_nets.resnet()(images()), given_resnet.trained(images()), **CLOSE)

    def test_the_supernet_starts_as_the_model_and_its_prefixes_are_the_important_channels(
        self, given_resnet: GivenModel
    ) -> None:
        space, supernet = given_resnet.space, given_resnet.supernet()
        largest = extract(supernet, space.network(space.largest())).eval()
        with torch.no_grad():
            assert torch.allclose(largest(images()), given_resnet.trained(images()), **CLOSE)
        groups = module_groups(own_nets.resnet(), SHAPE, "the model")
        for group in groups:
            name = next(n.name for n in space.model.nodes if module_of(n.name) in group.convs and n.op == "Conv")
            first = int(np.argmax(group.importance))
            norms = converted(own_nets.resnet()).conv(name).weight.flatten(1).norm(dim=1)
            assert torch.isclose(supernet.conv(name).weight[0].norm(), norms[first], rtol=1e-4)

    def test_the_key_is_of_the_weights(self, dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
        first, again = (given_model("tests.own_nets:resnet", dataset) for _ in range(2))
        monkeypatch.setattr(own_nets, "resnet", lambda: own_nets.with_statistics(own_nets.ResNet(3, 2)))
        other = given_model("tests.own_nets:resnet", dataset)
        assert first.key == again.key != other.key
        assert first.space.id == other.space.id

    def test_the_normalisation_of_its_training_is_the_models(self, dataset: Dataset) -> None:
        found = given_model("tests.own_nets:mobilenet_without_excitation", dataset).dataset
        assert found.mean == (0.485, 0.456, 0.406)
        assert found.fingerprint != dataset.fingerprint

    @pytest.mark.parametrize(
        ("name", "sentence"),
        [
            (
                "branching",
                r"can't be traced at own_nets.py:\d+ \(`if x.sum\(\) > 0:`\): which way it goes there depends",
            ),
            ("fourier", r"can't be written as ONNX, in after: .*aten::fft_fft2"),
            ("elu", r"edgenas can't train the operator Elu in after.1"),
            ("probabilities", r"can't train the operator Softmax[\s\S]*Return logits"),
            ("wrong_size", r"fails on the data's images of 3 x 28 x 28: RuntimeError"),
            ("wrong_classes", "tells 5 classes apart, but the data has 2"),
            ("two_outputs", "expected logits of shape .* but got tuple of length 2"),
            ("noisy", r"differ from the module's by up to 0\.\d+, more than"),
            ("narrow", "nothing of the model can be made smaller"),
            ("bad_statistics", "expected mean and std .* of 3 channels"),
            ("a_dictionary", "expected a torch.nn.Module, but got dict"),
            ("raises", "the function failed: RuntimeError: the weights are gone"),
            ("resnett", "did you mean `tests.own_nets:resnet`"),
        ],
    )
    def test_what_can_not_be_used_is_refused_with_its_place(self, dataset: Dataset, name: str, sentence: str) -> None:
        with pytest.raises(InputError, match=sentence) as caught:
            given_model(f"tests.own_nets:{name}", dataset)
        assert caught.value.exit_code == 2
        assert f"`--model tests.own_nets:{name}`" in caught.value.message or name == "narrow"

    @pytest.mark.parametrize("spec", ["resnet", "model.onnx", "no.such.module:resnet"])
    def test_no_function_is_refused(self, dataset: Dataset, spec: str) -> None:
        with pytest.raises(InputError, match=r"expected package.module:function|can't be imported"):
            given_model(spec, dataset)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--space", "slim"), "the space 'slim' is made of a model"),
        (("--model", "tests.own_nets:resnet", "--space", "tree"), "--model makes a space of its own"),
    ],
)
def test_a_model_and_its_space_come_together(
    arguments: tuple[str, ...],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    monkeypatch.setattr("sys.argv", ["edgenas", "build", "--device", "host", "--out", str(out), *arguments])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 2
    assert sentence in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.heavy
@pytest.mark.usefixtures("one_torch_thread")
@pytest.mark.parametrize("name", ["resnet", "mobilenet"])
def test_a_smaller_model_is_trained_exported_and_measured(name: str, tmp_path: Path) -> None:
    write_photos(tmp_path / "photos")
    spec, out = f"tests.own_nets:{name}", tmp_path / "out"
    request = BuildRequest("host", out, data=str(tmp_path / "photos"), model=spec, effort="quick")
    result = build(request, Progress(quiet=True), effort=EFFORT)
    again = build(request, Progress(quiet=True), effort=EFFORT)
    assert result["winner"]["measured"]["p50_ms"] > 0
    assert any("channels" in line for line in result["architecture"])
    assert result["model"]["name"] == spec
    assert result["winner"]["macs"] < result["model"]["macs"]
    assert json.loads((out / "edgenas.lock.json").read_text())["model"] == result["model"]["key"]
    session = onnxruntime.InferenceSession(str(out / "model" / "model.onnx"))
    assert session.get_outputs()[0].shape[1] == 2
    assert json.loads((out / "result.json").read_text())["winner"] == again["winner"]
    supernet = [stage for stage in again["stages"] if stage["name"] == "supernet"]
    assert supernet[0]["cached"]
