"""How well a table predicts networks that it doesn't hold: each is predicted by tables without it, fold by fold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from edgenas.latency import table
from edgenas.latency.kernel_model import network_mib, unsure
from edgenas.latency.records import ProfiledNetwork
from edgenas.latency.table import LatencyTable, LeftOut, TimedNetwork

FOLDS = 6


def with_left_out(found: LatencyTable, records: Sequence[ProfiledNetwork]) -> LatencyTable:
    """`found`, which was made of `records`, with what tables without each network say of it. Every FOLDS-th network is in a fold."""
    own = [r for r in records if r.precision == found.meta.precision and r.whole is not None]
    networks: list[TimedNetwork] = []
    for fold in range(FOLDS):
        out = own[fold::FOLDS]
        rest = table.from_records(found.meta, [r for i, r in enumerate(own) if i % FOLDS != fold])
        if not rest.times:
            return found
        model = table.kernel_model(rest)
        for network in table.from_records(found.meta, out).networks:
            guesses = model.estimates(network.kernels, network_mib(network.kernels) if found.in_context else None)
            left_out = LeftOut(sum(guess.ms for guess in guesses), unsure(guesses))
            networks.append(replace(network, left_out=left_out))
    return replace(found, networks=tuple(networks))
