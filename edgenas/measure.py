"""Measuring whole models on a target: warm-up, interleaved sampling, stop rule, and a verdict on the noise.

A small fixed reference network runs before every chunk of samples. It tells how fast the machine is at that moment: on a laptop or
a shared host that changes by half within seconds, invisibly to CPU time as well (clocks, a sibling hyperthread).
"""

from __future__ import annotations

import functools
import itertools
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from edgenas.artifacts.kernel import Precision
from edgenas.artifacts.measurement import Measurement
from edgenas.errors import InputError
from edgenas.network.builder import INPUT, Builder
from edgenas.network.fuse import FusionRules
from edgenas.network.graph import Network
from edgenas.onnxio.random_weights import random_ranges, random_weights
from edgenas.runtimes.runtime import Runtime, agent_on
from edgenas.stats import NOISY_RATIO, SLOW_RATIO, quiet_chunks
from edgenas.targets.channel import Channel
from edgenas.targets.target import Target

if TYPE_CHECKING:
    import onnx

PAUSE_S = 0.05
NAMES = 16  # of files on the target
COOL_DOWN_S = 20.0  # between two tries on a device that throttles
TRIES = 5
TRIES_VARIABLE = "EDGENAS_TRIES"  # where many are not worth their time: 1 in most tests


def most_tries() -> int:
    """How often a measurement that the machine was too busy or noisy for is made, at most: 5, or what EDGENAS_TRIES says. Raises
    InputError for what is no number from 1 on."""
    text = os.environ.get(TRIES_VARIABLE, str(TRIES))
    if not text.isdecimal() or int(text) < 1:
        raise InputError(f"the environment variable {TRIES_VARIABLE} is {text!r}", "Set it to 1 or more, or unset it.")
    return int(text)


@dataclass(frozen=True)
class SamplingRule:
    """Stop at `max_count` runs, or after `max_s` once `min_count` are there; warm up for `warmup_s` first."""

    warmup_s: float = 0.05
    min_count: int = 50
    max_count: int = 400
    max_s: float = 0.3
    chunk: int = 10


QUICK = SamplingRule(warmup_s=0.02, min_count=30, max_count=150, max_s=0.1, chunk=5)
THOROUGH = SamplingRule(warmup_s=0.3, min_count=300, max_count=4000, max_s=4.0, chunk=25)


@dataclass(frozen=True)
class NodeProfile:
    """Durations (us) of every node that the runtime executed, per run, in chunks that each follow a chunk of the reference model."""

    nodes: tuple[dict[str, Any], ...]
    reference_cpu_ns: tuple[int, ...]
    chunk: int


class Bench:
    """A target, a runtime on it and the agent between: everything that is measured goes through one of these.

    `quiet_reference_ms` is the reference model's time when the machine is quiet: the lowest seen so far, or a known one.
    """

    def __init__(
        self,
        target: Target,
        runtime: Runtime,
        threads: int = 1,
        quiet_reference_ms: float | None = None,
        provider: str = "cpu",
    ) -> None:
        self.target, self.runtime, self.threads, self.provider = target, runtime, threads, provider
        self.cool_down_s = COOL_DOWN_S
        self.quiet_reference_ms = quiet_reference_ms
        self._agent = self._new_agent()
        self._names = itertools.count()

    def _new_agent(self) -> Channel:
        return agent_on(self.target, self.runtime)

    @property
    def can_infer(self) -> bool:
        """Whether a model can be given inputs there: the program that times models on Android makes up its own."""
        return self.target.has_python

    def probe(self) -> dict[str, Any]:
        return self._agent.request({"do": "probe"})

    def fusion(self, precision: Precision) -> FusionRules:
        """What the runtime fuses on this target's CPU."""
        return self.runtime.fusion(precision, self._isa)

    @functools.cached_property
    def _isa(self) -> tuple[str, ...]:
        return tuple(self.probe()["isa"])

    def time_models(
        self,
        models: Sequence[onnx.ModelProto],
        rule: SamplingRule,
        *,
        precisions: Sequence[Precision] = (),
        tries: int = 1,
        fresh_process: bool = False,
    ) -> list[Measurement]:
        """One Measurement a model, all interleaved in one run; `precisions`, one a model, for a runtime that chooses it when it builds.

        A run on a slowed machine (something else has the core, or the reference model is slower than it can be), or one whose halves
        disagree, is repeated up to `tries` times; the quietest is returned, marked if it was not quiet. A device that throttles is
        given time to cool down in between. Raises TargetError (AgentRefusal if the runtime rejects a model).
        """
        each: Sequence[Precision] = precisions or ["fp32"] * len(models)
        paths = [self._put(model, len(models)) for model in models]
        put = [self._model(path, precision) for path, precision in zip(paths, each, strict=True)]
        agent = self._new_agent() if fresh_process else self._agent
        try:
            best = self._sample(agent, put, rule)
            for attempt in range(1, tries):
                if self._noise(best) <= SLOW_RATIO and not best[0].throttled:
                    break
                time.sleep(self.cool_down_s if best[0].throttled else PAUSE_S * attempt)
                again = self._sample(agent, put, rule)
                best = min(best, again, key=lambda found: (found[0].throttled, self._noise(found)))
        finally:
            if fresh_process:
                agent.close()
        if best[0].throttled:
            before, after = best[0].clock_mhz
            note = f"the device throttles: its clock fell from {before} to {after} MHz meanwhile, {_after(tries)}"
            return [replace(m, warnings=(note,)) for m in best]
        slower = slowdown(best, self.quiet_reference_ms)
        if slower > NOISY_RATIO:
            note = f"the machine was busy: about {slower:.2f} times slower than when quiet, {_after(tries)}"
            return [replace(m, warnings=(note,)) for m in best]
        return [_marked_if_noisy(m, tries) for m in best]

    def profile_nodes(
        self,
        model: onnx.ModelProto,
        *,
        precision: Precision = "fp32",
        chunks: int = 9,
        chunk: int = 4,
        tries: int = 1,
    ) -> NodeProfile:
        """Every node in the whole model, in `chunks` x `chunk` runs, repeated on a slowed machine as in `time_models`."""
        request = {
            "do": "profile",
            "model": self._model(self._put(model), precision),
            "reference": self._reference,
            "warmup_s": 0.02,
            "chunks": chunks,
            "chunk": chunk,
        }
        best = self._profile(request)
        for attempt in range(1, tries):
            if self._quiet_count(best) >= 2:
                break
            time.sleep(PAUSE_S * attempt)
            best = max(best, self._profile(request), key=self._quiet_count)
        return best

    def _quiet_count(self, profile: NodeProfile) -> int:
        quiet = self.quiet_reference_ms
        return int(quiet_chunks(profile.reference_cpu_ns, profile.chunk, quiet * 1e6).sum()) if quiet else profile.chunk

    def _profile(self, request: dict[str, Any]) -> NodeProfile:
        answer = self._agent.request(request, timeout_s=120 + self.runtime.OPENING_LIMIT_S)
        return NodeProfile(tuple(answer["nodes"]), tuple(answer["reference_cpu_ns"]), answer["chunk"])

    def process_peak_mib(self, model: onnx.ModelProto, *, precision: Precision = "fp32") -> float | None:
        """The most memory that a process which runs this model alone had; None where a tool of the runtime's runs it."""
        if self.runtime.INFER_BATCH > 1:
            return None
        return self.time_models([model], QUICK, precisions=[precision], fresh_process=True)[0].peak_rss_mib

    def energy(
        self, model: onnx.ModelProto, *, precision: Precision = "fp32", seconds: float = 2.0
    ) -> tuple[float | None, str | None]:
        """mJ that one run takes, and the counter or rail that it was read from; None where the device has none that can be read."""
        request = {"do": "energy", "model": self._model(self._put(model), precision), "seconds": seconds, "chunk": 10}
        answer = self._agent.request(request, timeout_s=120 + seconds + self.runtime.OPENING_LIMIT_S)
        return answer["energy_mj"], answer["source"]

    def infer(self, model: onnx.ModelProto, images: np.ndarray, precision: Precision = "fp32") -> np.ndarray:
        """Logits (N, classes) of float32 images (N, C, H, W) in the target's runtime, one image at a time or, where each start of it
        costs seconds, many."""
        import io

        from edgenas.onnxio.batch import with_batch

        if self.runtime.INFER_BATCH > 1:
            model = with_batch(model, min(self.runtime.INFER_BATCH, len(images)))

        buffer = io.BytesIO()
        np.save(buffer, np.ascontiguousarray(images, np.float32))
        inputs = self.target.put(buffer.getvalue(), "inputs.npy")
        outputs = self.target.path("outputs.npy")
        request = {
            "do": "infer",
            "model": self._model(self._put(model), precision),
            "inputs": inputs,
            "outputs": outputs,
        }
        self._agent.request(request, timeout_s=600 + len(images) + self.runtime.OPENING_LIMIT_S)
        logits: np.ndarray = np.load(io.BytesIO(self.target.get(outputs)), allow_pickle=False)
        return logits

    def _put(self, model: onnx.ModelProto, together: int = 1) -> str:
        # a few names in turn: a busy target's folder doesn't grow with every model that was ever measured; but those that are
        # measured together lie there together
        return self.target.put(model.SerializeToString(), f"model{next(self._names) % max(NAMES, together)}.onnx")

    def _model(self, path: str, precision: Precision = "fp32") -> dict[str, Any]:
        """As the agent takes it."""
        return {
            "path": path,
            "options": {"threads": self.threads, "precision": precision, "provider": self.provider},
        }

    def _sample(self, agent: Channel, models: list[dict[str, Any]], rule: SamplingRule) -> list[Measurement]:
        request = {
            "do": "bench",
            "models": models,
            "reference": self._reference,
            "warmup_s": rule.warmup_s,
            "min_count": rule.min_count,
            "max_count": rule.max_count,
            "max_s": 2 * rule.max_s * len(models),
            "chunk": rule.chunk,
        }
        opening_s = self.runtime.OPENING_LIMIT_S * (1 + len(models))
        answer = agent.request(request, timeout_s=120 + opening_s + 20 * rule.max_s * len(models))
        found = [
            Measurement(
                samples_ns=tuple(samples),
                cpu_ns=tuple(cpu),
                reference_cpu_ns=tuple(reference),
                chunk=answer["chunk"],
                warmup_count=warmups,
                threads=self.threads,
                temperature_c=tuple(answer["temperature_c"]),
                clock_mhz=tuple(answer["clock_mhz"]),
                load=answer["load"],
                peak_rss_mib=answer["peak_rss_mib"],
                provenance=self.target.provenance,
            )
            for samples, cpu, reference, warmups in zip(
                answer["samples_ns"], answer["cpu_ns"], answer["reference_cpu_ns"], answer["warmup_counts"], strict=True
            )
        ]
        now = min(m.reference_ms for m in found)
        self.quiet_reference_ms = min(now, self.quiet_reference_ms or now)
        return found

    def _noise(self, found: list[Measurement]) -> float:
        return max(slowdown(found, self.quiet_reference_ms), 1 + max(m.disagreement for m in found))

    @functools.cached_property
    def _reference(self) -> dict[str, Any]:
        network = reference_network()
        model = self.runtime.fp32_model(network, random_weights(network))
        return self._model(self.target.put(model.SerializeToString(), "reference.onnx"))


def slowdown(found: Sequence[Measurement], quiet_reference_ms: float | None) -> float:
    """How many times slower the machine was than when it is quiet: by what other work took of the core, and by the reference
    model, whose time was `quiet_reference_ms` then (None: its lowest of now)."""
    quiet_ms = quiet_reference_ms or min(m.reference_ms for m in found)
    slowest = max(max(m.contention, m.reference_ms / quiet_ms) for m in found)
    # a median is always a little over the p10 that a quiet time is; but where bursts take half of a run, they are in every p50
    bursts = max(m.reference_p50_ms for m in found) / quiet_ms
    return max(slowest, bursts) if bursts > NOISY_RATIO else slowest


def untrained(
    runtime: Runtime, network: Network, precision: Precision, weight_bits: int, seed: int = 0
) -> onnx.ModelProto:
    """With random weights: latency doesn't depend on them. FP16 is a matter of the engine: its file is the FP32 one."""
    weights = random_weights(network, seed)
    if precision == "int8":
        return runtime.int8_model(network, weights, random_ranges(network, seed), weight_bits)
    return runtime.fp32_model(network, weights)


def _after(tries: int) -> str:
    return "after 1 try" if tries == 1 else f"after {tries} tries"


def _marked_if_noisy(found: Measurement, tries: int) -> Measurement:
    if 1 + found.disagreement <= NOISY_RATIO:
        return found
    note = f"the machine is too noisy: repeats disagree by {found.disagreement:.0%}, {_after(tries)}"
    return replace(found, warnings=(note,))


def reference_network() -> Network:
    """Convolutions of the common kinds, about 0.1 ms on a desktop core: long enough that interpreter overhead doesn't matter.
    Never change it: tables refer to it."""
    b = Builder((1, 3, 28, 28))
    x = b.activation("relu1", b.conv("conv1", INPUT, 16, 3))
    x = b.activation("relu2", b.conv("conv2", x, 32, 3, 2))
    x = b.activation("relu3", b.conv("conv3", x, 32, 3))
    x = b.activation("relu4", b.conv("expand", x, 96))
    x = b.activation("relu5", b.conv("depthwise", x, 96, 3, 2, groups=96))
    x = b.conv("project", x, 48)
    return b.finish(b.linear("linear", b.flatten("flatten", b.global_average_pool("pool", x)), 10))
