"""The search strategies, one file each, found by their name. A file has

- `strategy(problem)`, which gives a `edgenas.search.strategy.Strategy`;
- where it takes more than a problem always has, `NEEDS`: keys of `OFFERS`.
"""

from __future__ import annotations

import importlib
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgenas.errors import InputError

if TYPE_CHECKING:
    from edgenas.search.strategy import Problem, Strategy

DEFAULT = "guided"
OFFERS = {
    "training": "trains candidates on their own",
    "relaxation": "mixes the operations of a supernet, which only one of a cell space can do",
}


def names() -> list[str]:
    """Of all strategies, sorted."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem != "__init__")


def needs(name: str) -> tuple[str, ...]:
    """What that strategy takes, of OFFERS. Raises InputError for a strategy that there isn't."""
    found: tuple[str, ...] = getattr(_module(name), "NEEDS", ())
    return found


def refuse_unless_offered(name: str, offered: Collection[str]) -> None:
    """Raises InputError for a strategy that there isn't, and for one that needs what this run doesn't offer."""
    for need in needs(name):
        if need not in offered:
            others = [each for each in names() if not set(needs(each)) - set(offered)]
            raise InputError(
                f"the search strategy {name!r} can't be used here: it {OFFERS[need]}",
                f"Strategies that can: {', '.join(others)}.",
            )


def open_strategy(name: str, problem: Problem) -> Strategy:
    """Raises InputError as `refuse_unless_offered` does."""
    offered = {"training": bool(problem.rungs), "relaxation": problem.relaxation is not None}
    refuse_unless_offered(name, [key for key, there in offered.items() if there])
    strategy: Strategy = _module(name).strategy(problem)
    return strategy


def _module(name: str) -> Any:
    if name not in names():
        raise InputError(f"no search strategy is called {name!r}", f"Strategies: {', '.join(names())}.")
    return importlib.import_module(f"edgenas.search.strategies.{name}")
