"""A real aarch64 ONNX Runtime under qemu: profiling, predicting and measuring there, and a search for it that finds another network
than one for this machine. Timings are an emulator's and are called so."""

from __future__ import annotations

import itertools
import json
import math
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgenas import device
from edgenas.errors import EdgenasError
from edgenas.latency import records
from edgenas.latency.fastest import FastestPredictor
from edgenas.latency.profile import ProfilePlan, plan_networks
from edgenas.measure import SamplingRule, untrained
from edgenas.network.costs import params
from edgenas.network.graph import Network
from edgenas.pipeline.context import Machine, opened_machine
from edgenas.pipeline.measuring import RECORDS, Profile, profile_inputs, run_profile
from edgenas.progress import Progress
from edgenas.search.evaluations import Evaluations
from edgenas.search.explore import feasible
from edgenas.search.narrow import Narrowing
from edgenas.search.run import search
from edgenas.search.strategy import Problem, SearchRule
from edgenas.spaces.mobile import MobileSpace, Stage
from edgenas.spaces.space import Subnet
from edgenas.store import Store
from edgenas.targets import emulation

pytestmark = [pytest.mark.system, pytest.mark.alone]
HOME, AWAY = "host", "emulated-aarch64"
SPACE = MobileSpace(
    channels=1,
    classes=10,
    resolutions_px=(16,),
    stem_widths=(8, 16),
    downsampling=((2, 1, 2),),
    stages=(
        Stage(depths=(1, 2), kernels=(3,), expands=(1, 2), widths=(16, 32)),
        Stage(depths=(1, 3), kernels=(3,), expands=(1, 2), widths=(16, 32, 48)),
    ),
)
PLAN = ProfilePlan(covering=12, odd=0, held_out=3)
BUDGET_QUANTILE = 0.3  # of the space's latencies on each device: the same relative budget
RULE = SamplingRule(warmup_s=0.05, min_count=40, max_count=400, max_s=0.3, chunk=5)
ROUNDS = 15
NOISE = 0.15  # of a network's time, from one measurement to the next


@dataclass(frozen=True)
class Known:
    """A device, opened, with what was measured of the space on it."""

    machine: Machine
    profile: Profile
    records: Path

    @property
    def predictor(self) -> FastestPredictor:
        return FastestPredictor(self.profile.predictors)


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Known]]:
    """The host and the emulated machine, profiled. The set-up downloads from Debian and PyPI; where it may not, the reason is told."""
    if shutil.which(emulation.QEMU) is None:
        pytest.skip(f"{emulation.QEMU} is not installed (apt-get install qemu-user-static)")
    try:
        emulation.set_up()
    except EdgenasError as error:
        pytest.skip(str(error))
    found = {}
    with ExitStack() as machines, pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGENAS_TRIES", "2")
        for name in (HOME, AWAY):
            machine = machines.enter_context(opened_machine(name, None, None))
            store = Store(tmp_path_factory.mktemp(name))
            machines.callback(store.close)
            stage = store.stage("profile", profile_inputs(SPACE, machine, PLAN))
            profile = run_profile(SPACE, machine, PLAN, stage, Progress(quiet=True))
            found[name] = Known(machine, profile, stage.path(RECORDS))
        yield found


def skip_if_noisy(known: Known) -> None:
    """Where the same networks take other times now than when the table was measured, or many were measured while the machine was busy,
    nothing can be said of predictions."""
    wholes = {(r.name, r.precision): r.whole for r in records.read(known.records) if r.whole}
    name, busy = known.machine.spec.id, sum(bool(whole.warnings) for whole in wholes.values())
    if busy > 0.1 * len(wholes):
        pytest.skip(
            f"{busy} of {len(wholes)} networks were measured on {name} while this machine was busy, in both tries"
        )
    machine, quiet_ms = known.machine, known.profile.quiet_reference_ms
    again = list(itertools.islice(plan_networks(SPACE, PLAN, lambda network: set()), PLAN.held_out))
    pairs = [(planned, p) for planned in again for p in machine.precisions]
    models = [untrained(machine.runtime, planned.network, p, machine.weight_bits) for planned, p in pairs]
    timed = machine.bench.time_models(models, RULE, precisions=[p for _, p in pairs], tries=2)
    for (planned, p), now in zip(pairs, timed, strict=True):
        before_ms, now_ms = wholes[planned.name, p].steady_ms(quiet_ms), now.steady_ms(quiet_ms)
        if abs(now_ms / before_ms - 1) > NOISE:
            pytest.skip(f"this machine is too noisy: a network took {before_ms:.3g} and then {now_ms:.3g} ms on {name}")


def test_it_is_another_machine_and_says_so(known: dict[str, Known]) -> None:
    probe = known[AWAY].machine.probe
    assert probe["machine"] == "aarch64"
    assert probe["runtime_versions"] == {"onnxruntime": "1.27.0"}
    assert not {"avx2", "avx512f"} & set(probe["isa"]), "its host's processor is not its own"
    assert known[AWAY].machine.bench.target.provenance == "emulated"


def test_its_table_predicts_what_is_measured_there(known: dict[str, Known]) -> None:
    """The networks held out were timed by the emulator: whatever it is slow at, the table knows."""
    assert all(path.is_file() for path in known[AWAY].profile.table_paths)
    figures = known[AWAY].profile.accuracy
    skip_if_noisy(known[AWAY])
    assert all(figures[p]["mape_pct"] < 20 for p in ("fp32", "int8"))


def test_predict_and_bench_from_the_command_line(known: dict[str, Known], tmp_path: Path) -> None:
    folder = device.user_folder("latency_tables") / AWAY
    folder.mkdir(parents=True)
    for path in known[AWAY].profile.table_paths:
        for each in path.parent.glob(f"{path.stem}.*"):
            shutil.copyfile(each, folder / each.name)
    network = SPACE.network(SPACE.largest())
    onnx.save(untrained(known[AWAY].machine.runtime, network, "fp32", 8), tmp_path / "net.onnx")
    predicted, benched = (
        edgenas(command, str(tmp_path / "net.onnx"), "--device", AWAY, "--json") for command in ("predict", "bench")
    )
    assert (benched["target"], benched["measured"]["provenance"]) == ("emulated:aarch64", "emulated")
    assert benched["predicted"]["latency_ms"] == pytest.approx(predicted["latency_ms"])
    skip_if_noisy(known[AWAY])
    assert benched["measured"]["p50_ms"] == pytest.approx(predicted["latency_ms"], rel=0.35)


def edgenas(*arguments: str) -> dict[str, dict[str, float]]:
    run = subprocess.run([sys.executable, "-m", "edgenas.cli", *arguments], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    found: dict[str, dict[str, float]] = json.loads(run.stdout)
    return found


def capacity(subnet: Subnet) -> float:
    """Stands in for accuracy, the same for both devices: parameters and depth."""
    network = SPACE.network(subnet)
    return math.log(params(network)) + 0.3 * sum(node.op == "Conv" for node in network.nodes)


def winner(known: Known, log: Path) -> Subnet:
    """The one of most capacity within the device's budget, by the search that a build runs, seed 0."""
    latency = known.predictor.over(SPACE)
    rng = np.random.default_rng(0)
    budget_ms = float(np.quantile(latency(np.array([SPACE.sample(rng).genome for _ in range(2000)])), BUDGET_QUANTILE))
    start = [subnet for subnet, _ in feasible(SPACE, latency, budget_ms, 64, np.random.default_rng(0))]
    anything = Narrowing(tuple(tuple(range(options)) for options in SPACE.radix()))
    rule = SearchRule(population=32, evaluations=500, patience=320)
    problem = Problem(SPACE, latency, budget_ms, tuple(start), anything, rule, seed=0)
    found = search(problem, "evolution", Evaluations(log, capacity).scores)
    return max(found.front, key=lambda candidate: candidate.score).subnet


def seconds_ratio(known: Known, own: Network, other: Network) -> np.ndarray:
    """(ROUNDS,) times of `other` over those of `own`, each in its best precision, all interleaved."""
    machine = known.machine
    pairs = [(network, p) for network in (own, other) for p in machine.precisions]
    models = [untrained(machine.runtime, network, p, machine.weight_bits) for network, p in pairs]
    ratios = []
    for _ in range(ROUNDS):
        timed = machine.bench.time_models(models, RULE, precisions=[p for _, p in pairs])
        ms = [found.reference_ratio for found in timed]
        half = len(machine.precisions)
        ratios.append(min(ms[half:]) / min(ms[:half]))
    return np.array(ratios)


def test_each_device_gets_a_network_that_is_better_there(known: dict[str, Known], tmp_path: Path) -> None:
    """The same space, seed, evaluator and relative budget; only the measured tables differ. Both winners are measured on both: the
    other device's is slower, or, where it is faster, it is worth less to the evaluator that both searches asked."""
    for each in known.values():
        skip_if_noisy(each)
    winners = {name: winner(each, tmp_path / f"{name}.jsonl") for name, each in known.items()}
    assert winners[HOME] != winners[AWAY]
    networks = {name: SPACE.network(subnet) for name, subnet in winners.items()}
    for name, each in known.items():
        (other,) = networks.keys() - {name}
        ratios = seconds_ratio(each, networks[name], networks[other])
        gain = float(ratios.mean()) - 1
        noise = float(ratios.std(ddof=1)) / math.sqrt(ROUNDS)  # of the mean: its standard error
        print(f"{name}: the other device's winner takes {1 + gain:.3f} times as long, noise {noise:.4f}")
        loses = capacity(winners[other]) < capacity(winners[name])
        print(f"{name}: worth {capacity(winners[name]):.4f}, the other's {capacity(winners[other]):.4f}")
        assert gain > 3 * noise or loses, (name, ratios)
