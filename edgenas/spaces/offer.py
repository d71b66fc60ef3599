"""What a space may offer, by the rules of the devices that its networks are for: what all of them run, and none of them slowly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import lcm

from edgenas.artifacts.device_spec import DETECTED, SLOW, Rules


@dataclass(frozen=True)
class Offer:
    """`width_multiple`: INT8 kernels of some device work on blocks of so many channels. `runs` and `runs_squeeze_excite`: what may be
    asked for though it is slow."""

    activations: tuple[str, ...] = ("relu", "relu6")
    squeeze_excite: bool = False
    depthwise_7x7: bool = False
    width_multiple: int = 1
    runs: tuple[str, ...] = ("relu", "relu6", "hard_swish")
    runs_squeeze_excite: bool = True

    def widths(self, options: tuple[int, ...]) -> tuple[int, ...]:
        """Rounded up to the multiple; what becomes equal is one option."""
        return tuple(dict.fromkeys(-(-width // self.width_multiple) * self.width_multiple for width in options))


ANYTHING = Offer()
"""What every device runs well."""


@dataclass(frozen=True)
class Device:
    """`int8`: the networks may be INT8 there. `is_measured`: its latency table is measured for the space, so that it says what pays;
    what has only been predicted from other networks may be wrong about what those lack."""

    rules: Rules
    int8: bool
    is_measured: bool


def offer_of(devices: Sequence[Device]) -> Offer:
    """What all of them do well. What still has to be detected favours no multiple."""
    rules = [device.rules for device in devices]
    fast = [_fast(device) for device in devices]
    multiples = [device.rules.int8_channel_multiple for device in devices if device.int8]
    return Offer(
        activations=tuple(name for name in rules[0].activations if all(name in each for each in fast)),
        squeeze_excite=all("squeeze_excite" in each for each in fast),
        depthwise_7x7=all("depthwise_7x7" in each for each in fast),
        width_multiple=lcm(*(each for each in multiples if isinstance(each, int))),
        runs=tuple(name for name in rules[0].activations if all(name in each.activations for each in rules)),
        runs_squeeze_excite=all(each.squeeze_excite for each in rules),
    )


def _fast(device: Device) -> set[str]:
    rules = device.rules
    runs = {*rules.activations, "depthwise_7x7", *(["squeeze_excite"] if rules.squeeze_excite else [])}
    slow = SLOW if rules.slow == DETECTED or not device.is_measured else rules.slow
    return runs - {*slow}
