"""What every search strategy has to hold, on made-up landscapes: budgets, distinct proposals, one path a seed, an end, and going on
after a SIGKILL. And that it is worth having: it beats random search at equal queries."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgenas.errors import InputError
from edgenas.pareto import hypervolume, non_dominated
from edgenas.search.evaluations import Candidate
from edgenas.search.fresh import Fresh
from edgenas.search.run import SearchResult
from edgenas.search.strategies import DEFAULT, OFFERS, names, needs, open_strategy, refuse_unless_offered
from edgenas.search.strategy import Batch, Problem, SearchRule
from edgenas.spaces.mobile import MobileSpace, Stage
from edgenas.spaces.space import SearchSpace, Subnet
from tests.landscapes import RULE, SMALL_CELL, SPACES, Landscape, run

ROOT = Path(__file__).resolve().parents[1]


def offered(problem: Problem) -> set[str]:
    return {"training"} | ({"relaxation"} if problem.relaxation else set())


def can_run(name: str, space: SearchSpace) -> bool:
    return set(needs(name)) <= offered(Landscape(space, 0).problem())


CASES = [(name, space) for name in names() for space in SPACES if can_run(name, SPACES[space])]
on_all_spaces = pytest.mark.parametrize(("name", "space"), CASES)
all_strategies = pytest.mark.parametrize("name", names())


@cache
def found(name: str, space: str, seed: int = 0) -> SearchResult:
    landscape = Landscape(SPACES[space], 0)
    return run(landscape, landscape.problem(seed=seed), name)


class TestConformance:
    @on_all_spaces
    def test_it_proposes_what_is_within_the_budget_and_nothing_twice(self, name: str, space: str) -> None:
        landscape = Landscape(SPACES[space], 0)
        result, budget_ms = found(name, space), landscape.problem().budget_ms
        assert len(result.evaluated) > RULE.evaluations // 2
        assert len({(c.subnet, c.rung) for c in result.evaluated}) == len(result.evaluated) <= RULE.evaluations
        for candidate in result.evaluated:
            assert SPACES[space].subnet(candidate.subnet.genome) == candidate.subnet, "not in its canonical form"
            (ms,) = landscape.latency(np.array([candidate.subnet.genome]))
            assert candidate.latency_ms == ms <= budget_ms
        assert result.strategy == name
        assert result.stopped

    @on_all_spaces
    def test_a_seed_is_a_path(self, name: str, space: str) -> None:
        landscape = Landscape(SPACES[space], 0)
        again = run(landscape, landscape.problem(seed=0), name)
        assert again == found(name, space)
        assert {c.subnet for c in found(name, space, seed=1).evaluated} != {c.subnet for c in again.evaluated}

    @all_strategies
    def test_its_answers_are_all_that_it_learns_from(self, name: str) -> None:
        """No global state: two searches at once don't disturb each other."""
        landscape = Landscape(SPACES["cell"], 0)
        one, other = (open_strategy(name, landscape.problem()) for _ in range(2))
        total = 0
        while total < RULE.evaluations // 2:
            batch = one.ask()
            assert batch == other.ask()
            candidates = [
                Candidate(s, landscape.score(s), float(landscape.latency(np.array([s.genome]))[0]), batch.rung)
                for s in batch.subnets
            ]
            total += len(candidates)
            assert candidates
            one.tell(candidates)
            other.tell(candidates)

    @all_strategies
    def test_a_space_that_is_used_up_ends_it(self, name: str) -> None:
        landscape = Landscape(SMALL_CELL, 0)
        rule = replace(RULE, evaluations=1000, patience=1000)
        result = run(landscape, landscape.problem(rule), name)
        assert 0 < len({c.subnet for c in result.evaluated}) <= len(within_budget(landscape))
        assert "evaluations were made" not in result.stopped
        assert result.stopped

    @all_strategies
    def test_a_budget_that_nothing_meets_ends_it_at_once(self, name: str) -> None:
        for space in (SPACES["mobile"], SPACES["cell"]):
            landscape = Landscape(space, 0)
            problem = landscape.problem(budget_ms=1e-6, start=(space.largest(),))
            if set(needs(name)) <= offered(problem):
                result = run(landscape, problem, name, lambda score, rung: never)
                assert result.evaluated == result.front == ()
                assert "budget" in result.stopped

    @all_strategies
    def test_it_begins_with_any_start_there_is(self, name: str) -> None:
        """Some of it over the budget, some of it twice."""
        landscape = Landscape(SPACES["cell"], 0)
        rng = np.random.default_rng(0)
        drawn = [SPACES["cell"].sample(rng) for _ in range(12)]
        result = run(landscape, landscape.problem(start=(*drawn, *drawn)), name)
        assert all(c.latency_ms <= landscape.budget_ms(0.3) for c in result.evaluated)
        assert len(result.evaluated) > RULE.evaluations // 2

    @all_strategies
    def test_it_goes_on_from_a_start_that_fills_the_population(self, name: str) -> None:
        landscape = Landscape(SPACES["cell"], 0)
        start = Fresh(landscape.problem(), np.random.default_rng(0)).draw(RULE.population)
        result = run(landscape, landscape.problem(start=tuple(start)), name)
        assert len(result.evaluated) > len(start) == RULE.population

    @all_strategies
    def test_few_evaluations_are_enough_for_an_answer(self, name: str) -> None:
        landscape = Landscape(SPACES["cell"], 0)
        for evaluations in (1, 2, 5):
            result = run(landscape, landscape.problem(replace(RULE, evaluations=evaluations)), name)
            assert 1 <= len(result.evaluated) <= evaluations
            assert result.front

    @all_strategies
    def test_the_front_is_of_those_that_can_be_compared(self, name: str) -> None:
        result = found(name, "cell")
        longest = max(c.rung for c in result.evaluated)
        comparable = [c for c in result.evaluated if c.rung == longest]
        assert result.comparable == tuple(comparable)
        expected = non_dominated(np.array([(c.latency_ms, 1 - c.score) for c in comparable]))
        assert result.front == tuple(comparable[i] for i in expected)
        assert (longest > 0) == ("training" in needs(name))

    @all_strategies
    def test_time_ends_it_after_its_first_batch(self, name: str) -> None:
        landscape, batches = Landscape(SPACES["cell"], 0), []
        result = run(landscape, landscape.problem(), name, out_of_time=lambda: True, on_batch=batches.append)
        assert result.stopped == "the time was up"
        assert tuple(c.subnet for c in result.evaluated) == batches[0].subnets
        assert len(batches) == 1


def within_budget(landscape: Landscape) -> set[Subnet]:
    genomes = np.array(list(np.ndindex(landscape.space.radix())))
    inside = genomes[landscape.latency(genomes) <= landscape.budget_ms(0.3)]
    return {landscape.space.subnet(tuple(map(int, genome))) for genome in inside}


def never(subnet: Subnet) -> float:
    raise AssertionError("evaluated, though it is over the budget")


def test_random_search_is_through_with_a_small_space_in_the_end() -> None:
    landscape = Landscape(SMALL_CELL, 0)
    result = run(landscape, landscape.problem(replace(RULE, evaluations=1000, patience=1000)), "random")
    assert {c.subnet for c in result.evaluated} == within_budget(landscape)


def test_time_that_is_up_within_a_batch_ends_it_there() -> None:
    landscape = Landscape(SPACES["cell"], 0)
    count = 0

    def out_of_time() -> bool:
        nonlocal count
        count += 1
        return count > 10

    result = run(landscape, landscape.problem(), "random", out_of_time=out_of_time)
    assert result.stopped == "the time was up"
    assert 16 < len(result.evaluated) < 32


def test_a_hypervolume_that_does_not_grow_ends_it_unless_there_is_a_plan() -> None:
    landscape = Landscape(SPACES["cell"], 0)
    problem = landscape.problem(SearchRule(start=8, population=12, evaluations=400, patience=30))

    def flat(score: object, rung: int) -> Callable[[Subnet], float]:
        return lambda subnet: 0.5

    for name in ("random", "aging", "evolution", "bayesian"):
        result = run(landscape, problem, name, flat)
        assert "the hypervolume grew by less than 0.2% in 30 evaluations" in result.stopped, name
        assert 38 <= len(result.evaluated) < 200, name
    assert "hypervolume" not in run(landscape, problem, "halving", flat).stopped


class TestRun:
    """The loop holds strategies to the protocol: a search that trusted them would break a budget or never end."""

    def test_a_strategy_that_breaks_the_protocol_is_an_error(self, monkeypatch: pytest.MonkeyPatch) -> None:
        landscape = Landscape(SMALL_CELL, 0)
        fitting = min(within_budget(landscape), key=lambda subnet: subnet.genome)
        rng = np.random.default_rng(0)
        slow = next(s for s in iter(lambda: SMALL_CELL.sample(rng), None) if s not in within_budget(landscape))
        for batches, said in (
            ([Batch((fitting, slow))], "over the budget"),
            ([Batch((fitting, fitting))], "twice"),
            ([Batch((fitting,)), Batch((fitting,))], "twice"),
        ):
            script = Scripted(iter(batches))
            monkeypatch.setattr("edgenas.search.run.open_strategy", lambda name, problem, script=script: script)
            with pytest.raises(ValueError, match=f"the strategy scripted proposed a subnet {said}"):
                run(landscape, landscape.problem(), "scripted")

    def test_a_score_after_training_takes_its_place_beside_others_of_that_length(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        landscape = Landscape(SMALL_CELL, 0)
        some = tuple(sorted(within_budget(landscape), key=lambda subnet: subnet.genome)[:4])
        batches = [Batch(some), Batch(some[:2], rung=1)]
        monkeypatch.setattr("edgenas.search.run.open_strategy", lambda name, problem: Scripted(iter(batches)))
        result = run(landscape, landscape.problem(), "scripted")
        assert [(c.subnet, c.rung) for c in result.evaluated] == [*((s, 0) for s in some), *((s, 1) for s in some[:2])]
        assert {c.subnet for c in result.front} <= set(some[:2])
        assert all(c.score == landscape.trained(c.subnet, 1) for c in result.front)
        assert result.stopped == "no more lines"


@dataclass
class Scripted:
    batches: Iterator[Batch]

    def ask(self) -> Batch:
        return next(self.batches, Batch(reason="no more lines"))

    def tell(self, candidates: list[Candidate]) -> None:
        pass


class TestFresh:
    @settings(max_examples=30, deadline=None)
    @given(st.lists(st.integers(0, 40), min_size=1, max_size=12), st.floats(0.05, 1), st.integers(0, 50))
    def test_a_small_space_is_drawn_from_until_it_is_empty(self, counts: list[int], share: float, seed: int) -> None:
        landscape = Landscape(SMALL_CELL, 1)
        problem = landscape.problem(share=share)
        fresh = Fresh(problem, np.random.default_rng(seed))
        drawn = [subnet for count in counts for subnet in fresh.draw(count)]
        everything = {s for s in map(SMALL_CELL.subnet, np.ndindex(SMALL_CELL.radix())) if fits(landscape, s, problem)}
        assert len(drawn) == len(set(drawn)) == min(sum(counts), len(everything))
        assert set(drawn) <= everything

    def test_each_is_as_likely_as_any_other(self) -> None:
        """Also where several genomes are one subnet."""
        space = MobileSpace(1, 3, (12,), (8, 16), ((1, 2),), (Stage(),))
        landscape = Landscape(space, 0)
        problem = landscape.problem(share=0.5)
        counts: Counter[Subnet] = Counter()
        for seed in range(200):
            counts.update(Fresh(problem, np.random.default_rng(seed)).draw(10))
        genomes = Counter(map(space.subnet, np.ndindex(space.radix())))
        inside = [subnet for subnet in genomes if fits(landscape, subnet, problem)]
        assert len({genomes[subnet] for subnet in inside}) > 1
        expected = 200 * 10 / len(inside)
        chi_square = sum((counts[subnet] - expected) ** 2 / expected for subnet in inside)
        assert chi_square < len(inside) + 4 * np.sqrt(2 * len(inside))

    def test_a_budget_that_hardly_anything_meets_is_met(self) -> None:
        """By one subnet in a thousand, in a space that is not enumerated."""
        space = SPACES["mobile"]
        landscape = Landscape(space, 0)
        subnets = list(dict.fromkeys(map(space.subnet, np.ndindex(space.radix()))))
        ms = landscape.latency(np.array([subnet.genome for subnet in subnets]))
        count = len(subnets) // 1000
        fastest = {subnets[i] for i in np.argsort(ms)[:count]}
        problem = landscape.problem(budget_ms=float(np.sort(ms)[count - 1]))
        drawn = Fresh(problem, np.random.default_rng(0)).draw(1000)
        assert len(drawn) == len(set(drawn)) > count // 2
        assert set(drawn) <= fastest

    def test_what_was_taken_is_not_drawn(self) -> None:
        landscape = Landscape(SMALL_CELL, 0)
        fresh = Fresh(landscape.problem(), np.random.default_rng(0))
        inside = sorted(within_budget(landscape), key=lambda subnet: subnet.genome)
        assert fresh.take([*inside[:5], *inside[:5], SMALL_CELL.largest()], 3) == inside[:3]
        assert fresh.take(inside[:4]) == inside[3:4]
        assert set(fresh.draw(1000)) == set(inside[4:])
        assert fresh.draw(1) == fresh.take(inside) == []


def fits(landscape: Landscape, subnet: Subnet, problem: Problem) -> bool:
    return bool(landscape.latency(np.array([subnet.genome]))[0] <= problem.budget_ms)


def test_names_are_those_of_the_files() -> None:
    assert {"random", "evolution", "aging", "bayesian", "progressive", "halving"} <= set(names())
    assert DEFAULT in names()
    assert {need for name in names() for need in needs(name)} <= set(OFFERS)
    assert not needs(DEFAULT)
    with pytest.raises(InputError, match="no search strategy is called 'grid'") as refused:
        needs("grid")
    assert refused.value.hint is not None
    assert "random" in refused.value.hint


@pytest.mark.parametrize("name", [name for name in names() if needs(name)])
def test_a_strategy_that_needs_more_than_there_is_says_what(name: str) -> None:
    with pytest.raises(InputError, match=f"the search strategy '{name}' can't be used here: it ") as refused:
        refuse_unless_offered(name, [])
    assert refused.value.exit_code == 2
    assert "random" in str(refused.value.hint)
    assert f" {name}" not in str(refused.value.hint)
    landscape = Landscape(SPACES["cell"], 0)
    with pytest.raises(InputError, match=OFFERS[needs(name)[0]]):
        run(landscape, landscape.problem(rungs=(), relaxation=None), name)


QUERIES = {"bayesian": 60, "guided": 60}  # where they are enough, for they take longer over each
SEEDS = 12
BLUR = {"halving": 0.04}  # what it is for: a supernet that ranks roughly


@pytest.mark.heavy
@pytest.mark.parametrize("name", [name for name in names() if name != "random"])
def test_it_beats_random_search_at_equal_queries(name: str) -> None:
    """By the true accuracy of what it holds for the most accurate; evolution, which has two objectives, by the hypervolume."""
    measured = hypervolumes if name == "evolution" else accuracies
    queries, blur = QUERIES.get(name, 200), BLUR.get(name, 0.01)
    gained = np.array(measured(name, queries, blur)) - measured("random", queries, blur)
    mean, error = gained.mean(), gained.std(ddof=1) / np.sqrt(SEEDS)
    assert mean - 1.96 * error > 0, f"{mean:+.4f} ± {1.96 * error:.4f}"


def accuracies(name: str, queries: int, blur: float) -> list[float]:
    return [
        landscape.accuracy(max(result.front, key=lambda c: c.score).subnet)
        for landscape, _, result in searched(name, queries, blur)
    ]


def hypervolumes(name: str, queries: int, blur: float) -> list[float]:
    return [
        hypervolume(
            np.array([(c.latency_ms, 1 - landscape.accuracy(c.subnet)) for c in result.evaluated]), (budget_ms, 0.6)
        )
        / budget_ms
        for landscape, budget_ms, result in searched(name, queries, blur)
    ]


@cache
def searched(name: str, queries: int, blur: float) -> list[tuple[Landscape, float, SearchResult]]:
    rule = SearchRule(start=24, population=24, evaluations=queries, patience=queries)
    landscapes = [Landscape(SPACES["cell"], seed, blur) for seed in range(SEEDS)]
    problems = [each.problem(rule, seed=each.seed) for each in landscapes]
    return [
        (each, problem.budget_ms, run(each, problem, name)) for each, problem in zip(landscapes, problems, strict=True)
    ]


KILLS = 20
EVALUATIONS = 40
DRIVER = """
import json, os, signal, sys, time
from pathlib import Path

import numpy as np

from edgenas.search.evaluations import Evaluations
from edgenas.search.strategy import SearchRule
from tests.landscapes import SPACES, Landscape, run

names, kills, evaluations = sys.argv[2].split(","), int(sys.argv[3]), int(sys.argv[4])
landscape = Landscape(SPACES["cell"], 0)
rule = SearchRule(start=8, population=12, evaluations=evaluations, patience=evaluations)


def whole_search(name, folder, killed_after=None, pipe=None):
    '''With its logs in `folder`. It waits to be killed when as many evaluations are in them.'''
    def logged(score, rung):
        def made(subnet):
            if killed_after is not None and lines(folder) == killed_after:
                os.write(pipe, b"x")
                time.sleep(3600)
            with (folder / "made").open("a") as file:
                file.write(f"{subnet.id} {rung}\\n")
            return score(subnet)
        return Evaluations(folder / f"{rung}.jsonl", made).score

    found = run(landscape, landscape.problem(rule, seed=3), name, logged)
    return {
        "evaluated": [[c.subnet.id, c.rung, c.score] for c in found.evaluated],
        "front": [c.subnet.id for c in found.front],
        "stopped": found.stopped,
        "logged": [json.loads(line)["id"] for log in sorted(folder.glob("*.jsonl")) for line in log.read_text().splitlines()],
        "made": (folder / "made").read_text().splitlines(),
    }


def lines(folder):
    return sum(log.read_bytes().count(b"\\n") for log in folder.glob("*.jsonl"))


for name in names:
    whole, broken = (Path(sys.argv[1]) / f"{name}-{kind}" for kind in ("whole", "broken"))
    whole.mkdir(), broken.mkdir()
    reference = whole_search(name, whole)  # and everything is imported before there are children
    signals = []
    rng = np.random.default_rng(sum(map(ord, name)))
    for killed_after in sorted(rng.choice(np.arange(1, len(reference["evaluated"])), kills, replace=False).tolist()):
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            whole_search(name, broken, killed_after, write)
            os._exit(0)
        os.close(write)
        assert os.read(read, 1) == b"x", f"{name} ended before evaluation {killed_after}"
        os.kill(child, signal.SIGKILL)
        signals.append(os.WTERMSIG(os.waitpid(child, 0)[1]))
        os.close(read)
        if rng.random() < 0.5:  # a line that was cut short
            newest = max(broken.glob("*.jsonl"), key=lambda log: log.stat().st_mtime_ns)
            with newest.open("a") as file:
                file.write('{"id": "ab')
    print(json.dumps({"name": name, "signals": signals, "whole": reference, "broken": whole_search(name, broken)}), flush=True)
"""


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    command = [sys.executable, "-c", DRIVER, str(tmp_path_factory.mktemp("kills")), ",".join(names())]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run([*command, str(KILLS), str(EVALUATIONS)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", "a strategy's libraries keep quiet"
    return {found["name"]: found for found in map(json.loads, done.stdout.splitlines())}


@pytest.mark.heavy
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has neither SIGKILL nor fork")
@all_strategies
def test_killed_at_twenty_random_points_it_takes_the_same_path(name: str, broken: dict[str, Any]) -> None:
    one = broken[name]
    whole, again = one["whole"], one["broken"]
    assert one["signals"] == [9] * KILLS
    assert again["evaluated"] == whole["evaluated"]
    assert (again["front"], again["stopped"]) == (whole["front"], whole["stopped"])
    assert again["logged"] == whole["logged"]
    assert again["made"] == whole["made"], "an evaluation was made twice"
    assert len(set(whole["made"])) == len(whole["made"]) == len(whole["evaluated"])
