"""Architecture strings of the known cell spaces -> Networks."""

from __future__ import annotations

from edgenas.errors import InputError
from edgenas.network.graph import Network
from edgenas.spaces.cell import NAS_BENCH_201, CellSpace
from edgenas.spaces.cell_graphs import Genotype, NodeCell

SPACES: dict[str, CellSpace] = {NAS_BENCH_201.name: NAS_BENCH_201}
"""Those whose members can be drawn, by the name that `--space` takes."""


def is_architecture(text: str) -> bool:
    """Whether the text means to be an architecture string rather than a path."""
    return text.startswith(("|", "Genotype(")) or (":" in text and not set(text.split(":")[0]) - {*"01/"})


def network_of(text: str) -> Network:
    """The network as written. A NAS-Bench-201 string starts with a bar; a NAS-Bench-101 cell is `0110/0001/0001/0000:op,op`; a
    DARTS cell is `Genotype(...)`. Raises InputError saying what is wrong."""
    text = text.strip()
    if text.startswith("|"):
        return NAS_BENCH_201.network(NAS_BENCH_201.parse(text))
    if text.startswith("Genotype("):
        return Genotype.parse(text).network()
    if is_architecture(text):
        return NodeCell.parse(text).network()
    raise InputError(
        f"{text!r} is no architecture of a known space",
        "NAS-Bench-201: |op~0|+|op~0|op~1|+...; NAS-Bench-101: 0110/0001/0001/0000:op,op; DARTS: Genotype(normal=[...], ...).",
    )
