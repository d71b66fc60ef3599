"""How well zero-cost proxies rank the networks of a benchmark by the accuracies that it gives.

    python tools/bench_proxies.py --accuracy nb201_accuracy.csv.gz --column cifar100_test_acc_200ep --arch nb201_arch.csv.gz

Files are CSV (or .csv.gz), the first column an index: --accuracy FILE has accuracies in COLUMN, --arch FILE architecture strings in
`arch_str`. --networks of them are drawn, without those whose output doesn't depend on their input. The images are those of --data, as
`edgenas build` takes it, or without it Gaussian noise with random labels, in which a proxy sees less than in the benchmark's own.
"""

from __future__ import annotations

import csv
import gzip
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np

from edgenas.network.graph import Network
from edgenas.network.readings import depends_on_input
from edgenas.spaces.architectures import network_of
from edgenas.stats import rank_figures

if TYPE_CHECKING:
    from edgenas.nets.proxies import Batch


@click.command(help=(__doc__ or "").split("\n", 1)[0])
@click.option("--accuracy", "accuracies", required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--column", required=True, help="The column of accuracies.")
@click.option("--arch", "architectures", required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--networks", default=60, show_default=True, type=click.IntRange(3))
@click.option("--images", default=32, show_default=True, type=click.IntRange(4))
@click.option("--data", "spec", help="Such as fashion-mnist:FOLDER, or a folder of images. Default: noise.")
@click.option("--seed", default=0, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def main(
    accuracies: Path,
    column: str,
    architectures: Path,
    networks: int,
    images: int,
    spec: str | None,
    seed: int,
    as_json: bool,
) -> None:
    import torch

    from edgenas.nets.proxies import measured
    from edgenas.nets.proxy_names import NAMES

    texts = _column(architectures, "arch_str")
    known = {index: float(value) for index, value in _column(accuracies, column).items() if value and index in texts}
    rng = np.random.default_rng(seed)
    drawn: list[tuple[float, dict[str, float]]] = []
    batch: Batch | None = None
    start = time.monotonic()
    for index in rng.permutation(sorted(known)):
        network = network_of(texts[str(index)])
        if not depends_on_input(network):
            continue
        batch = batch or _batch(network, spec, images, seed)
        drawn.append((known[str(index)], measured(batch, network)))
        if len(drawn) == networks:
            break
    seconds = (time.monotonic() - start) / len(drawn)
    rows = {name: rank_figures([values[name] for _, values in drawn], [a for a, _ in drawn]) for name in NAMES}
    if as_json:
        found = {
            "networks": len(drawn),
            "images": images,
            "data": spec,
            "seconds_each": seconds,
            "threads": torch.get_num_threads(),
        }
        click.echo(json.dumps(found | {"proxies": rows}, indent=2))
        return
    click.echo(f"{len(drawn)} networks, {images} images of {spec or 'noise'}, {seconds:.2f} s each")
    for name, row in rows.items():
        click.echo(
            f"{name:10} Spearman {row['spearman']:6.3f} [{row['spearman_low']:6.3f}, {row['spearman_high']:6.3f}]"
            f"   Kendall {row['kendall_tau']:6.3f} [{row['kendall_tau_low']:6.3f}, {row['kendall_tau_high']:6.3f}]"
        )


def _batch(network: Network, spec: str | None, count: int, seed: int) -> Batch:
    """In the channels and with as many classes as the networks of the benchmark have; grey images in all channels alike."""
    from edgenas import data, device
    from edgenas.nets.feed import Preprocessing
    from edgenas.nets.proxies import Batch

    rng = np.random.default_rng(seed)
    _, channels, px, _ = network.input_shape
    classes = network.by_name[network.output_name].shape[1]
    if spec is None:
        noise = np.clip(128 + 48 * rng.standard_normal((count, px, px, channels)), 0, 255).astype(np.uint8)
        return Batch(
            noise, rng.integers(classes, size=count), Preprocessing((0.5,) * channels, (0.2,) * channels), seed
        )
    dataset = data.load(spec, sample_dir=device.shipped("datasets"), seed=seed)
    train = dataset.train.at(rng.permutation(len(dataset.train))[:count])
    times = channels // dataset.channels
    prepared = Preprocessing(dataset.mean * times, dataset.std * times)
    return Batch(train.images.repeat(times, axis=3), train.labels % classes, prepared, seed)


def _column(path: Path, name: str) -> dict[str, str]:
    """By the index in the first column."""
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
        reader = csv.DictReader(file)
        first = (reader.fieldnames or [""])[0]
        return {row[first]: row[name] for row in reader}


if __name__ == "__main__":
    main()
