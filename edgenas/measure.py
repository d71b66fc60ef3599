"""Measuring whole models on a target: warm-up, interleaved sampling, stop rule, and a verdict on the noise.

A small fixed reference network runs before every chunk of samples. It tells how fast the machine is at that moment: on a laptop or
a shared host that changes by half within seconds, invisibly to CPU time as well (clocks, a sibling hyperthread).
"""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from edgenas.artifacts.kernel import Precision
from edgenas.artifacts.measurement import Measurement
from edgenas.network.builder import INPUT, Builder
from edgenas.network.fuse import FusionRules
from edgenas.network.graph import Network
from edgenas.onnxio.random_weights import random_weights
from edgenas.runtimes.runtime import Runtime
from edgenas.stats import NOISY_RATIO, SLOW_RATIO, quiet_chunks
from edgenas.targets.channel import Channel
from edgenas.targets.target import Target

if TYPE_CHECKING:
    import onnx

PAUSE_S = 0.05


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
        self, target: Target, runtime: Runtime, threads: int = 1, quiet_reference_ms: float | None = None
    ) -> None:
        self.target, self.runtime, self.threads = target, runtime, threads
        self.quiet_reference_ms = quiet_reference_ms
        self._agent = target.agent(runtime.AGENT_PART)
        self._names = itertools.count()

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
        tries: int = 1,
        fresh_process: bool = False,
    ) -> list[Measurement]:
        """One Measurement a model, all interleaved in one run.

        A run on a slowed machine (something else has the core, or the reference model is slower than it can be) is repeated up to
        `tries` times; the quietest is returned, marked if it was not quiet. Raises TargetError (AgentRefusal if the runtime rejects
        a model).
        """
        paths = [self._put(model) for model in models]
        agent = self.target.agent(self.runtime.AGENT_PART) if fresh_process else self._agent
        try:
            best = self._sample(agent, paths, rule)
            for attempt in range(1, tries):
                if self._slowdown(best) <= SLOW_RATIO:
                    break
                time.sleep(PAUSE_S * attempt)
                best = min(best, self._sample(agent, paths, rule), key=self._slowdown)
        finally:
            if fresh_process:
                agent.close()
        slowdown = self._slowdown(best)
        if slowdown > NOISY_RATIO:
            note = f"the machine was busy: about {slowdown:.2f} times slower than when quiet, after {tries} tries"
            best = [replace(m, warnings=(note,)) for m in best]
        return best

    def profile_nodes(self, model: onnx.ModelProto, *, chunks: int = 9, chunk: int = 4, tries: int = 1) -> NodeProfile:
        """Every node in the whole model, in `chunks` x `chunk` runs, repeated on a slowed machine as in `time_models`."""
        request = {
            "do": "profile",
            "model": self._put(model),
            "reference": self._reference_path,
            "threads": self.threads,
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
        answer = self._agent.request(request)
        return NodeProfile(tuple(answer["nodes"]), tuple(answer["reference_cpu_ns"]), request["chunk"])

    def infer(self, model: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
        """Logits (N, classes) of float32 images (N, C, H, W), one image at a time, in the target's runtime."""
        import io

        buffer = io.BytesIO()
        np.save(buffer, np.ascontiguousarray(images, np.float32))
        inputs = self.target.put(buffer.getvalue(), "inputs.npy")
        outputs = self.target.path("outputs.npy")
        request = {
            "do": "infer",
            "model": self._put(model),
            "inputs": inputs,
            "outputs": outputs,
            "threads": self.threads,
        }
        self._agent.request(request, timeout_s=600 + len(images))
        logits: np.ndarray = np.load(io.BytesIO(self.target.get(outputs)), allow_pickle=False)
        return logits

    def _put(self, model: onnx.ModelProto) -> str:
        # a few names in turn: a busy target's folder doesn't grow with every model that was ever measured
        return self.target.put(model.SerializeToString(), f"model{next(self._names) % 16}.onnx")

    def _sample(self, agent: Channel, paths: list[str], rule: SamplingRule) -> list[Measurement]:
        request = {
            "do": "bench",
            "models": paths,
            "reference": self._reference_path,
            "threads": self.threads,
            "warmup_s": rule.warmup_s,
            "min_count": rule.min_count,
            "max_count": rule.max_count,
            "max_s": 2 * rule.max_s * len(paths),
            "chunk": rule.chunk,
        }
        answer = agent.request(request, timeout_s=120 + 20 * rule.max_s * len(paths))
        found = [
            Measurement(
                samples_ns=tuple(samples),
                cpu_ns=tuple(cpu),
                reference_cpu_ns=tuple(reference),
                chunk=rule.chunk,
                warmup_count=warmups,
                threads=self.threads,
                temperature_c=tuple(answer["temperature_c"]),
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

    def _slowdown(self, found: list[Measurement]) -> float:
        quiet = self.quiet_reference_ms or min(m.reference_ms for m in found)
        return max(max(m.contention, m.reference_ms / quiet) for m in found)

    @functools.cached_property
    def _reference_path(self) -> str:
        network = reference_network()
        model = self.runtime.fp32_model(network, random_weights(network))
        return self.target.put(model.SerializeToString(), "reference.onnx")


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
