"""The catalog: every network in it is legal, runs, and where it is published is the published one; and the laws of its space."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace

import numpy as np
import onnxruntime as ort
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgenas.errors import InputError
from edgenas.nets.module import NetworkModule
from edgenas.network.costs import macs, params
from edgenas.network.graph import Network
from edgenas.onnxio.qdq import to_qdq
from edgenas.onnxio.random_weights import random_ranges, random_weights
from edgenas.onnxio.read import read
from edgenas.onnxio.write import to_onnx
from edgenas.spaces.blocks import ACTIVATIONS
from edgenas.spaces.catalog import CatalogSpace, for_data
from edgenas.spaces.families import FAMILIES, WIDTHS, make_divisible
from edgenas.spaces.offer import Offer
from edgenas.spaces.space import Subnet

PLAIN = for_data(32, 3, 10)
RICH = for_data(28, 1, 10, Offer(("relu", "relu6", "hard_swish"), squeeze_excite=True))
SPACES = {"relu and relu6": PLAIN, "everything": RICH}
IMAGENET = CatalogSpace(3, 1000, (224,), tuple(ACTIVATIONS), True)
EVERY_WIDTH = list(itertools.product(FAMILIES, range(WIDTHS)))


def member(space: CatalogSpace, family: str, width: int | float) -> Network:
    """Of `space` at its highest resolution; `width` is the index, or as a float the multiplier."""
    index = FAMILIES[family].widths.index(width) if isinstance(width, float) else width
    return space.network(space.subnet((space.families.index(family), index, len(space.resolutions_px) - 1)))


def run(model: bytes, image: np.ndarray) -> np.ndarray:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"input": image})[0])


def image_for(network: Network, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(network.input_shape, dtype=np.float32)


class TestEveryNetwork:
    @pytest.mark.parametrize(("family", "width"), EVERY_WIDTH)
    def test_it_is_legal_onnx_and_runs_in_fp32_and_int8(self, family: str, width: int) -> None:
        network = member(RICH, family, width)
        weights, image = random_weights(network), image_for(network)
        for model in (
            to_onnx(network, weights),  # runs ONNX's checker
            to_qdq(network, weights, random_ranges(network), weight_bits=7),
        ):
            logits = run(model.SerializeToString(), image)
            assert logits.shape == (1, 10)
            assert np.isfinite(logits).all()

    @pytest.mark.parametrize("family", FAMILIES)
    @pytest.mark.parametrize("space", SPACES.values(), ids=SPACES.keys())
    def test_torch_computes_the_same_as_onnx_runtime(self, space: CatalogSpace, family: str) -> None:
        network = member(space, family, 1)
        torch.manual_seed(0)
        module = NetworkModule(network)
        images = torch.randn(8, *network.input_shape[1:])
        with torch.no_grad():
            for layer in module.bn_layers():
                layer.beta.uniform_(-0.3, 0.3)
            module.train()(images)  # statistics of its own for each BatchNorm
            found = module.eval()(images[:1]).numpy()
        expected = run(to_onnx(network, module.folded_weights()).SerializeToString(), images[:1].numpy())
        assert np.abs(expected).max() > 0
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * float(np.abs(expected).max()))

    @pytest.mark.parametrize("family", FAMILIES)
    def test_its_file_is_read_back_as_the_same_network(self, family: str) -> None:
        network = member(RICH, family, 0)
        again = read(to_onnx(network, random_weights(network)))
        assert Counter(node.op for node in again.nodes) == Counter(node.op for node in network.nodes)
        assert (params(again), macs(again)) == (params(network), macs(network))

    @pytest.mark.parametrize("family", FAMILIES)
    def test_every_weight_gets_a_gradient(self, family: str) -> None:
        module = NetworkModule(member(RICH, family, 0))
        logits = module(torch.randn(4, 1, 28, 28))
        torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2, 3])).backward()
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in module.parameters())


class TestPublishedFigures:
    @pytest.mark.parametrize(
        ("space", "family", "width", "million_params", "million_macs"),
        [
            # table 4 of the paper; the other widths: research/slim/nets/mobilenet/README.md in github.com/tensorflow/models
            (IMAGENET, "mobilenet-v2", 1.0, 3.4, 300),
            (IMAGENET, "mobilenet-v2", 0.35, 1.66, 59),
            (IMAGENET, "mobilenet-v2", 0.5, 1.95, 97),
            (IMAGENET, "mobilenet-v2", 0.75, 2.61, 209),
            (IMAGENET, "mobilenet-v2", 1.4, 6.06, 582),
            # table 3 of the paper: 2.5 M parameters, 56 M multiply-adds
            (IMAGENET, "mobilenet-v3-small", 1.0, 2.5, 56),
            # torchvision's documentation of squeezenet1_1: 1,235,496 parameters, 0.35 G multiply-adds
            (IMAGENET, "squeezenet", 1.0, 1.2355, 350),
            # MLPerf Tiny: 78 k parameters; the MACs are counted by hand from its layers
            (CatalogSpace(3, 10, (32,)), "resnet8", 1.0, 0.078, 12.5),
        ],
    )
    def test_parameters_and_macs(
        self, space: CatalogSpace, family: str, width: float, million_params: float, million_macs: float
    ) -> None:
        network = member(space, family, width)
        assert params(network) / 1e6 == pytest.approx(million_params, rel=0.03)
        assert macs(network) / 1e6 == pytest.approx(million_macs, rel=0.03)

    def test_efficientnet_lite0_has_the_published_parameters(self) -> None:
        assert params(member(IMAGENET, "efficientnet-lite0", 1.0)) / 1e6 == pytest.approx(4.7, rel=0.03)

    @pytest.mark.parametrize("family", FAMILIES)
    @pytest.mark.parametrize("side", [28, 64, 224])
    def test_costs_grow_with_width_and_resolution(self, family: str, side: int) -> None:
        space = for_data(side, 3, 10)
        f = space.families.index(family)
        for resolution in range(len(space.resolutions_px)):
            nets = [space.network(space.subnet((f, w, resolution))) for w in range(WIDTHS)]
            for cost in (params, macs):
                sizes = [cost(net) for net in nets]
                assert sizes == sorted(set(sizes))
        for width in range(WIDTHS):
            sizes = [macs(space.network(space.subnet((f, width, r)))) for r in range(len(space.resolutions_px))]
            assert sizes == sorted(set(sizes))


class TestFittedToTheData:
    @pytest.mark.parametrize("family", FAMILIES)
    @pytest.mark.parametrize("side", [24, 28, 32, 48, 64, 96, 128, 160, 224])
    def test_the_last_feature_map_is_neither_a_pixel_nor_large(self, family: str, side: int) -> None:
        space = for_data(side, 3, 10)
        for resolution, px in enumerate(space.resolutions_px):
            network = space.network(space.subnet((space.families.index(family), 0, resolution)))
            last = [node.shape[2] for node in network.nodes if node.op == "Conv"][-1]
            assert (4 if px == side else 3) <= last <= 14

    def test_small_images_are_halved_late_and_large_ones_as_published(self) -> None:
        strides = {
            side: [
                int(node.attribute("strides")[0])
                for node in member(for_data(side, 3, 10), "mobilenet-v2", 1.0).nodes
                if node.op == "Conv" and node.attribute("kernel_shape") == (3, 3)
            ]
            for side in (32, 64, 224)
        }
        places = {side: [i for i, stride in enumerate(found) if stride == 2] for side, found in strides.items()}
        assert places == {32: [4, 7, 14], 64: [2, 4, 7, 14], 224: [0, 2, 4, 7, 14]}

    @given(side=st.integers(4, 260), seed=st.integers(0, 1000))
    def test_there_is_a_catalog_for_images_of_any_side(self, side: int, seed: int) -> None:
        space = for_data(side, 3, 5)
        network = space.network(space.sample(np.random.default_rng(seed)))
        assert network.input_shape[2] <= side
        assert network.shape_of(network.output_name) == (1, 5)
        assert space.resolutions_px[-1] == side

    def test_only_allowed_operations_occur(self) -> None:
        def ops(space: CatalogSpace) -> set[str]:
            return {node.op for family in FAMILIES for node in member(space, family, 0).nodes}

        assert {"HardSwish", "Clip", "Mul", "HardSigmoid"} <= ops(RICH)
        assert not {"HardSwish", "Mul", "HardSigmoid"} & ops(PLAIN)
        assert not {"HardSwish", "Clip"} & ops(for_data(32, 3, 10, Offer(("relu",))))
        without_gates = for_data(32, 3, 10, Offer(("relu", "hard_swish")))
        assert "HardSwish" in ops(without_gates)
        assert "Mul" not in ops(without_gates)

    @given(channels=st.floats(1, 4000))
    def test_widths_are_multiples_of_8_and_at_least_nine_tenths(self, channels: float) -> None:
        rounded = make_divisible(channels)
        assert rounded % 8 == 0
        assert rounded >= max(8, 0.9 * channels)
        assert rounded <= max(8, channels + 8)

    @pytest.mark.parametrize(("family", "width"), EVERY_WIDTH)
    def test_convolutions_have_multiples_of_8_channels(self, family: str, width: int) -> None:
        convolutions = [node for node in member(RICH, family, width).nodes if node.op == "Conv"]
        odd = [node.name for node in convolutions if node.shape[1] % 8]
        assert odd == (["squeezenet/head/conv"] if family == "squeezenet" else [])  # one channel a class


genomes = st.tuples(*(st.integers(0, count - 1) for count in PLAIN.radix()))


class TestSpace:
    def test_ids_stay_as_they_are(self) -> None:
        # what was measured and trained is found by them, in other processes and later versions
        assert for_data(32, 3, 10).id == "7e7b5488e354"
        assert PLAIN.subnet((0, 1, 0)).id == Subnet("catalog", (0, 1, 0)).id == "5c8700b6af31"

    def test_the_id_tells_settings_apart(self) -> None:
        others = (
            replace(PLAIN, channels=1),
            replace(PLAIN, classes=11),
            replace(PLAIN, resolutions_px=(32,)),
            replace(PLAIN, activations=("relu",)),
            replace(PLAIN, squeeze_excite=True),
            replace(PLAIN, families=("plain",)),
        )
        assert len({space.id for space in (PLAIN, *others)}) == 1 + len(others)

    @given(one=genomes, other=genomes)
    def test_equal_genomes_are_equal_networks_and_others_are_not(
        self, one: tuple[int, ...], other: tuple[int, ...]
    ) -> None:
        networks = [PLAIN.network(PLAIN.subnet(genome)) for genome in (one, other)]
        assert (one == other) == (networks[0] == networks[1])
        assert PLAIN.network(PLAIN.subnet(one)) == networks[0]

    @given(seed=st.integers(0, 2**32), rate=st.floats(0, 1))
    def test_what_is_drawn_changed_and_crossed_stays_inside(self, seed: int, rate: float) -> None:
        rng = np.random.default_rng(seed)
        one, other = PLAIN.sample(rng), PLAIN.sample(rng)
        child = PLAIN.crossover(one, other, rng)
        for subnet in (one, other, child, PLAIN.mutate(one, rng, rate)):
            assert all(0 <= gene < count for gene, count in zip(subnet.genome, PLAIN.radix(), strict=True))
            assert PLAIN.subnet(subnet.genome) == subnet
        assert all(gene in pair for gene, *pair in zip(child.genome, one.genome, other.genome, strict=True))

    def test_a_genome_of_numpy_integers_is_the_same_subnet(self) -> None:
        assert PLAIN.subnet(tuple(np.array([1, 2, 1]))) == PLAIN.subnet((1, 2, 1))

    def test_smallest_is_one_a_family_and_none_is_smaller(self) -> None:
        for f, subnet in enumerate(PLAIN.smallest()):
            members = [PLAIN.subnet((f, w, r)) for w in range(WIDTHS) for r in range(len(PLAIN.resolutions_px))]
            assert macs(PLAIN.network(subnet)) == min(macs(PLAIN.network(other)) for other in members)

    def test_the_description_says_what_is_built(self) -> None:
        assert PLAIN.describe(PLAIN.subnet((list(FAMILIES).index("resnet8"), 1, 1))) == (
            "input: 3 x 32 x 32",
            "network: ResNet-8, width 1",
            "last feature map: 64 x 8 x 8",
            "size: 77,706 parameters, 12.5 M MACs",
        )

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"families": ()}, "no options for families"),
            ({"resolutions_px": ()}, "no options for resolutions_px"),
            ({"families": ("vgg",)}, r"no family \['vgg'\]\n.*mobilenet-v2"),
            ({"activations": ("relu", "gelu")}, r"no activation \['gelu'\]\n.*hard_swish"),
            ({"activations": ("relu6",)}, "needs relu"),
        ],
    )
    def test_settings_that_make_no_sense_are_refused(self, changes: dict[str, tuple[str, ...]], message: str) -> None:
        with pytest.raises(InputError, match=message):
            replace(PLAIN, **changes)  # type: ignore[arg-type]

    def test_every_family_has_as_many_widths_and_they_rise(self) -> None:
        for family in FAMILIES.values():
            assert len(family.widths) == WIDTHS >= 5
            assert list(family.widths) == sorted(set(family.widths))
            assert 1.0 in family.widths
