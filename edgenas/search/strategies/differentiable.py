"""Differentiable search: every choice is a mix of its options, and gradients say which to have more of (DARTS: Liu et al., ICLR 2019).

A gene's options are mixed by a Gumbel softmax of its logits, which a falling temperature makes a choice (SNAS: Xie et al., ICLR 2019;
FBNet: Wu et al., CVPR 2019). The loss is the supernet's on images that its weights are not trained on, plus a price on how far the
expected latency is from the budget (ProxylessNAS: Cai et al., ICLR 2019; on both sides, since what is left of a budget is accuracy
that was left too, and skips are learned so easily that they would take over: Chu et al., "Fair DARTS", ECCV 2020). The logarithm of
latency is fitted as a sum over genes: costs of choices such as width and depth multiply. What is proposed are the likeliest choices
that are within the budget by the predictor itself, the fit only leads there.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgenas.search.evaluations import Candidate
from edgenas.search.fresh import Fresh
from edgenas.search.strategy import Batch, Problem, Relaxation, Strategy
from edgenas.spaces.space import Subnet

NEEDS = ("relaxation",)

STEPS = 200
LEARNING_RATE = 0.1  # of Adam, on logits that start at 0
ADAM = (0.9, 0.99, 1e-8)
TEMPERATURES = (3.0, 0.3)  # of the first and the last step
LATENCY_PRICE = 10.0  # times log(expected latency / budget): latency's say, where the loss of the supernet has 1
BELOW = 0.3  # of that price, under the budget
FITTED = 2048  # random subnets that the latency is fitted on
RIDGE = 1e-3
BATCH = 8
SAMPLED = 1024  # choices drawn from what was learnt, for one batch
SPREADS = (1.0, 2.0, 4.0)  # to draw at, relative to the last temperature, until a batch is full


def strategy(problem: Problem) -> Strategy:
    return _Differentiable(problem)


class _Differentiable:
    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.fresh = Fresh(problem, np.random.default_rng([problem.seed, 1]))
        self.rng = np.random.default_rng([problem.seed, 2])
        self.logits: np.ndarray | None = None

    def ask(self) -> Batch:
        if self.logits is None:
            if not Fresh(self.problem, np.random.default_rng([self.problem.seed, 4])).draw(1):
                return Batch(reason=self.fresh.why_none)  # before anything is trained for it
            assert self.problem.relaxation is not None  # `NEEDS` says so
            self.logits = trained_logits(self.problem, self.problem.relaxation)
        found: list[Subnet] = []
        for spread in SPREADS:
            if len(found) < BATCH:
                found += self.fresh.take(self._likeliest(spread * TEMPERATURES[1]), BATCH - len(found))
        found += self.fresh.draw(BATCH - len(found)) if len(found) < BATCH else []
        return Batch(tuple(found), reason=self.fresh.why_none)

    def tell(self, candidates: Sequence[Candidate]) -> None:
        """Nothing: what it learns, it learns from gradients, before it proposes."""

    def _likeliest(self, temperature: float) -> list[Subnet]:
        """The likeliest choice and drawn ones, the likelier first."""
        space = self.problem.space
        assert self.logits is not None
        scaled = [part / temperature for part in _by_gene(self.logits, space.radix())]
        columns = [
            np.append(np.argmax(part), np.argmax(part + self.rng.gumbel(size=(SAMPLED, len(part))), axis=1))
            for part in scaled
        ]
        likelihood = sum(_log_softmax(part)[column] for part, column in zip(scaled, columns, strict=True))
        order = np.argsort(-np.asarray(likelihood), kind="stable")
        return [space.subnet(tuple(genome)) for genome in np.stack(columns, axis=1)[order].tolist()]


def trained_logits(problem: Problem, relaxation: Relaxation) -> np.ndarray:
    """(sum of radix,) of all options, gene after gene; minus infinity where the evidence dropped the option."""
    radix = problem.space.radix()
    rng = np.random.default_rng([problem.seed, 3])
    log_ms, constant = fitted_latency(problem, rng)
    latency_spread = max(_spread(log_ms, radix), 1e-9)
    allowed = np.concatenate(
        [np.isin(np.arange(n), kept) for n, kept in zip(radix, problem.narrowing.allowed, strict=True)]
    )
    logits = np.where(allowed, 0.0, -np.inf)
    first, second = np.zeros(len(logits)), np.zeros(len(logits))
    size = 0.0  # of the loss's gradient: what a supernet's loss is worth depends on how well it is trained
    for step in range(STEPS):
        temperature = TEMPERATURES[0] * (TEMPERATURES[1] / TEMPERATURES[0]) ** (step / (STEPS - 1))
        noisy = (logits + rng.gumbel(size=len(logits))) / temperature
        mixed = np.concatenate([np.exp(_log_softmax(part)) for part in _by_gene(noisy, radix)])
        _, gradient = relaxation(mixed)
        size = ADAM[0] * size + (1 - ADAM[0]) * _spread(gradient, radix)
        excess = float(mixed @ log_ms + constant)
        price = LATENCY_PRICE * excess * (1.0 if excess > 0 else BELOW)
        gradient = gradient + price * size / (1 - ADAM[0] ** (step + 1)) / latency_spread * log_ms
        # through the softmax: how much more of an option is worth, against the mean of what is mixed
        slope = mixed * (gradient - _means(gradient, radix, mixed)) / temperature
        first = ADAM[0] * first + (1 - ADAM[0]) * slope
        second = ADAM[1] * second + (1 - ADAM[1]) * slope**2
        unbiased = first / (1 - ADAM[0] ** (step + 1)), second / (1 - ADAM[1] ** (step + 1))
        logits = logits - LEARNING_RATE * unbiased[0] / (np.sqrt(unbiased[1]) + ADAM[2])
    return logits


def fitted_latency(problem: Problem, rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """(sum of radix,) and a constant: mixed @ the first + the second is the expected log(latency / budget) of a mix."""
    space, radix = problem.space, problem.space.radix()
    genomes = np.array([space.sample(rng).genome for _ in range(FITTED)])
    offsets = np.concatenate([[0], np.cumsum(radix)])
    design = np.zeros((FITTED, offsets[-1]))
    design[np.arange(FITTED)[:, None], offsets[:-1] + genomes] = 1
    wanted = np.log(problem.latency(genomes) / problem.budget_ms)
    centre, mean = design.mean(axis=0), float(wanted.mean())
    centred = design - centre
    weights = np.linalg.solve(centred.T @ centred + RIDGE * np.eye(len(centre)), centred.T @ (wanted - mean))
    return weights, mean - float(centre @ weights)


def _by_gene(values: np.ndarray, radix: Sequence[int]) -> list[np.ndarray]:
    return np.split(values, np.cumsum(radix)[:-1])


def _means(values: np.ndarray, radix: Sequence[int], shares: np.ndarray) -> np.ndarray:
    """Each gene's mean by `shares`, for each of its options."""
    return np.concatenate(
        [np.full(len(v), v @ s) for v, s in zip(_by_gene(values, radix), _by_gene(shares, radix), strict=True)]
    )


def _spread(values: np.ndarray, radix: Sequence[int]) -> float:
    """How much the options of a gene differ (root mean square)."""
    even = np.concatenate([np.full(options, 1 / options) for options in radix])
    return float(np.sqrt(np.mean((values - _means(values, radix, even)) ** 2)))


def _log_softmax(values: np.ndarray) -> np.ndarray:
    shifted = values - values.max()
    return np.asarray(shifted - np.log(np.exp(shifted).sum()))
