"""What the options of the supernet's training are worth: validation accuracy of random subnets against training time.

    python tools/bench_supernet.py                                         # 3 epochs of 4,000 bundled images, one thread
    python tools/bench_supernet.py --epochs 6 --images 0 --option plain --option ema=0.99 --json
    python tools/bench_supernet.py --option plain --option transforms+shrinking --space tree

Trains the same supernet from the same seed with each `--option`, a sum of `transforms` (smaller kernels learned from larger ones),
`shrinking` (the larger subnets first), `ema=DECAY` (the average of the weights) and `ENUMBER` (so many epochs, to compare at equal
time); `plain` is none of them. The same random subnets are then cut out of each and judged on validation images, each with
BatchNorm statistics of its own, as a search does. Differences from the first option are by subnet, with a 95 % interval over
subnets, and so without the spread between seeds: repeat with another --seed.

Then the time of a training step (the largest subnet and four others) with and without channels_last weights and bfloat16.
"""

from __future__ import annotations

import itertools
import json
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch.nn import functional as F

from edgenas import data, device
from edgenas.data import Dataset
from edgenas.nets.feed import TrainingFeed
from edgenas.nets.module import Layers
from edgenas.nets.recipe import Recipe
from edgenas.nets.training import channels_last, has_fast_bf16
from edgenas.pipeline.request import EFFORTS
from edgenas.spaces.space import SearchSpace, Subnet
from edgenas.spaces.trainable import NAMES, space_for
from edgenas.supernet.evaluate import SubnetJudge
from edgenas.supernet.train import RANDOM_SUBNETS, new_supernet, train_supernet

OPTIONS = ("plain", "transforms", "shrinking", "ema=0.95", "ema=0.99", "transforms+shrinking+ema=0.95")


@click.command(help=(__doc__ or "").split("\n", 1)[0])
@click.option("--option", "options", multiple=True, default=OPTIONS, show_default=True, help="May be repeated.")
@click.option("--space", default="mobile", show_default=True, type=click.Choice(NAMES))
@click.option("--data", "spec", help="As `edgenas build` takes it; the bundled images where it is left out.")
@click.option("--epochs", default=3, show_default=True, type=click.IntRange(1))
@click.option("--images", default=4000, show_default=True, help="Training images; 0: all.")
@click.option("--subnets", default=30, show_default=True, type=click.IntRange(2), help="How many are judged.")
@click.option(
    "--steps", default=10, show_default=True, help="Training steps timed for each kind of arithmetic; 0: none."
)
@click.option("--threads", default=1, show_default=True, type=click.IntRange(1))
@click.option("--seed", default=0, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def main(
    options: tuple[str, ...],
    space: str,
    spec: str | None,
    epochs: int,
    images: int,
    subnets: int,
    steps: int,
    threads: int,
    seed: int,
    as_json: bool,
) -> None:
    torch.set_num_threads(threads)
    dataset = data.load(spec, sample_dir=device.shipped("datasets") / "fashion-mnist-sample", seed=seed)
    if images:
        dataset = replace(dataset, train=dataset.train.at(np.arange(min(images, len(dataset.train)))))
    searched = space_for(space, dataset.resolution_px, dataset.channels, len(dataset.labels))
    rng = np.random.default_rng(seed + 1000)  # not those that training draws
    judged = [searched.sample(rng) for _ in range(subnets)]
    recipe = replace(EFFORTS["quick"].supernet, epochs=epochs)
    rows = {option: trained(option, searched, dataset, recipe, judged, seed) for option in options}
    first = np.array(rows[options[0]]["accuracies"])
    for row in rows.values():
        row["difference"] = mean_interval(np.array(row["accuracies"]) - first)
    found = {
        "space": space,
        "train_images": len(dataset.train),
        "validation_images": len(dataset.validation),
        "subnets": subnets,
        "threads": threads,
        "seed": seed,
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "options": rows,
        "arithmetic": arithmetic(searched, dataset, recipe, steps, seed) if steps else {},
    }
    click.echo(json.dumps(found, indent=2) if as_json else text(found))


def mean_interval(differences: np.ndarray) -> tuple[float, float, float]:
    """(mean, low, high): 95 % by the normal distribution."""
    mean = float(differences.mean())
    reach = 1.96 * float(differences.std(ddof=1)) / len(differences) ** 0.5
    return mean, mean - reach, mean + reach


def trained(
    option: str, space: SearchSpace, dataset: Dataset, recipe: Recipe, judged: list[Subnet], seed: int
) -> dict[str, Any]:
    parts = [] if option == "plain" else option.split("+")
    transforms, shrinking = "transforms" in parts, "shrinking" in parts
    for part in set(parts) - {"transforms", "shrinking"}:
        if part.startswith("ema="):
            recipe = replace(recipe, ema=float(part.removeprefix("ema=")))
        elif part.startswith("E") and part[1:].isdigit():
            recipe = replace(recipe, epochs=int(part[1:]))
        else:
            raise click.BadParameter(f"there is no option {part!r}; they are transforms, shrinking, ema=DECAY, ENUMBER")
    supernet = new_supernet(space, seed, transforms=transforms)
    losses: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        wall, cpu = time.perf_counter(), time.process_time()
        train_supernet(
            supernet,
            space,
            space.sample,
            dataset,
            recipe,
            seed,
            Path(folder) / "supernet.safetensors",
            shrinking=shrinking,
            on_epoch=lambda done, total, loss: losses.append(loss),
        )
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    judge = SubnetJudge(space, supernet, dataset)
    accuracies = [judge.score(subnet) for subnet in judged]
    return {
        "epochs": recipe.epochs,
        "wall_s": wall,
        "cpu_s": cpu,
        "mean_accuracy": float(np.mean(accuracies)),
        "lowest": min(accuracies),
        "highest": max(accuracies),
        "largest": judge.score(space.largest()),
        "largest_losses": losses,
        "accuracies": accuracies,
    }


def arithmetic(space: SearchSpace, dataset: Dataset, recipe: Recipe, steps: int, seed: int) -> dict[str, float]:
    """Milliseconds a step, taken in turns; the least of all turns, which other work hardly moves."""
    found: dict[str, float] = {}
    kinds = [
        (layout, bf16)
        for layout, bf16 in itertools.product((False, True), (False, True))
        if not bf16 or has_fast_bf16()
    ]
    images, labels = next(TrainingFeed(dataset, recipe.batch_size, seed).epoch(0))
    rng = np.random.default_rng(seed)
    networks = [space.network(s) for s in (space.largest(), *(space.sample(rng) for _ in range(RANDOM_SUBNETS)))]
    for layout, bf16 in kinds * steps:
        torch.manual_seed(seed)
        supernet = Layers(space.layer_shapes())
        supernet = channels_last(supernet).train() if layout else supernet.train()
        x = laid_out(images, channels_last=layout)
        started = time.process_time()
        for i, network in enumerate(networks):
            part = slice(None) if i == 0 else slice(0, len(x) // 2)
            px = network.input_shape[2]
            resized = x[part] if px == x.shape[2] else F.interpolate(x[part], (px, px), mode="bilinear")
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                logits = supernet.run(network, resized)
            F.cross_entropy(logits.float(), labels[part]).backward()
        ms = 1000 * (time.process_time() - started)
        name = f"{'channels_last' if layout else 'channels first'}, {'bfloat16' if bf16 else 'float32'}"
        found[name] = min(ms, found.get(name, ms))
    return found


def laid_out(images: torch.Tensor, *, channels_last: bool) -> torch.Tensor:
    """A copy in exactly this layout: images of one channel are contiguous in both, and torch goes by their strides."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty(images.shape, memory_format=layout).copy_(images)


def text(found: dict[str, Any]) -> str:
    lines = [
        f"space {found['space']}, {found['train_images']:,} training images, {found['subnets']} random subnets, "
        f"{found['threads']} thread(s), seed {found['seed']}, load {found['load']}",
        "",
        f"{'option':38}{'epochs':>7}{'CPU s':>8}{'accuracy':>10}{'largest':>9}   difference, points",
    ]
    for name, row in found["options"].items():
        mean, low, high = (100 * value for value in row["difference"])
        lines.append(
            f"{name:38}{row['epochs']:>7}{row['cpu_s']:>8.1f}{row['mean_accuracy']:>10.2%}{row['largest']:>9.2%}"
            f"   {mean:+.2f} ({low:+.2f} to {high:+.2f})"
        )
    if found["arithmetic"]:
        lines += ["", "CPU time of a training step:"]
        lines += [f"  {name:28}{ms:8.0f} ms" for name, ms in found["arithmetic"].items()]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
