"""What a differentiable search asks of a supernet of cells: the loss of a mix of all choices, and which way it falls.

As in DARTS (Liu et al., ICLR 2019) two things take turns: the weights learn on one half of the training images, with the mix that they
are asked for, and the mix is judged on the other half. Validation images are for the search that follows. The weights are a copy.
"""

from __future__ import annotations

import copy
import io
import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from edgenas.data import Dataset
from edgenas.nets.feed import TrainingFeed, resized
from edgenas.nets.module import Layers
from edgenas.nets.recipe import Recipe
from edgenas.nets.training import Optimiser, channels_last, load_checkpoint, mixed_precision, save_checkpoint
from edgenas.spaces.cell_relaxed import RelaxedNetwork, relaxed_network
from edgenas.spaces.cell_stack import CellStack
from edgenas.store import write_bytes

RECIPE = Recipe(epochs=1, batch_size=64, learning_rate=0.02, warmup_share=0.0)  # at its first rate throughout
SAVED_EVERY = 10  # calls


class RelaxedSupernet:
    """A `edgenas.search.strategy.Relaxation`. What it answered is kept in `folder`, and the weights now and then: asked the same in
    another process, it answers the same, and goes on from there. `on_call` gets the number of calls so far."""

    def __init__(
        self,
        space: CellStack,
        supernet: Layers,
        dataset: Dataset,
        seed: int,
        folder: Path,
        on_call: Callable[[int], None] = lambda calls: None,
    ) -> None:
        self.space, self.original, self.on_call = space, supernet, on_call
        self.weights_file, self.answers_file = folder / "relaxed.safetensors", folder / "relaxed.npy"
        rows = torch.randperm(len(dataset.train), generator=torch.Generator().manual_seed(seed)).numpy()
        learning, judging = rows[: len(rows) // 2], rows[len(rows) // 2 :]
        self.learning = _Batches(replace(dataset, train=dataset.train.at(learning)), seed)
        self.judging = _Batches(replace(dataset, train=dataset.train.at(judging)), seed)
        choices = itertools.product(range(len(space.resolutions_px)), range(len(space.stem_halvings)))
        self.networks = {choice: relaxed_network(space, *choice) for choice in choices}
        self.calls = 0
        self.answers: list[np.ndarray] = []  # shares, loss and gradient, one after the other
        self._copy_weights()
        if done := load_checkpoint(self.weights_file, self.supernet, self.optimiser):
            self.answers = list(np.load(self.answers_file)[:done])

    def __call__(self, shares: np.ndarray) -> tuple[float, np.ndarray]:
        """(options,) of all genes, one after the other -> the loss on a batch, and its gradient (options,)."""
        call, count = self.calls, len(shares)
        if call < len(self.answers) and not np.array_equal(self.answers[call][:count], shares):
            del self.answers[call:]  # of another path: its weights are of no use
            self._copy_weights()
        if call == len(self.answers):
            self.answers.append(np.concatenate([shares, *self._step(call, shares)]))
            if (call + 1) % SAVED_EVERY == 0:
                self._save()
        self.calls += 1
        self.on_call(self.calls)
        return float(self.answers[call][count]), self.answers[call][count + 1 :]

    def _step(self, call: int, shares: np.ndarray) -> tuple[list[float], np.ndarray]:
        mixed = torch.from_numpy(shares).float()
        for parameter in self.supernet.parameters():
            parameter.requires_grad_(True)
        self._loss(mixed, *self.learning.at(call)).backward()
        self.optimiser.step(0, 0)
        for parameter in self.supernet.parameters():
            parameter.requires_grad_(False)
        mixed.requires_grad_(True)
        loss = self._loss(mixed, *self.judging.at(call))
        loss.backward()
        assert mixed.grad is not None
        return [loss.item()], mixed.grad.double().numpy()

    def _loss(self, shares: Tensor, images: Tensor, labels: Tensor) -> Tensor:
        """Of the mix of the losses at each resolution and after each stem."""
        first, second = self.space.radix()[:2]
        total = torch.zeros(())
        for (resolution, stem), relaxed in self.networks.items():
            px = relaxed.network.input_shape[2]
            at_px = images if px == images.shape[2] else resized(images, px)
            loss = F.cross_entropy(self._logits(relaxed, at_px, shares), labels)
            total = total + shares[resolution] * shares[first : first + second][stem] * loss
        return total

    def _logits(self, relaxed: RelaxedNetwork, images: Tensor, shares: Tensor) -> Tensor:
        factors = {
            name: (torch.from_numpy(matrix).float() @ shares).reshape(1, -1, 1, 1)
            for name, matrix in relaxed.factors.items()
        }
        with mixed_precision():
            tensors = self.supernet.tensors(relaxed.network, images, factors)
        return tensors[relaxed.network.output_name].float()

    def _copy_weights(self) -> None:
        self.supernet = channels_last(copy.deepcopy(self.original)).train()
        self.optimiser = Optimiser(self.supernet, RECIPE, 1)

    def _save(self) -> None:
        rows = io.BytesIO()
        np.save(rows, np.stack(self.answers), allow_pickle=False)
        write_bytes(self.answers_file, rows.getvalue())
        save_checkpoint(self.weights_file, self.supernet, self.optimiser, len(self.answers))


class _Batches:
    """The batches of all epochs, in order, from whichever is asked for first."""

    def __init__(self, dataset: Dataset, seed: int) -> None:
        self.feed = TrainingFeed(dataset, RECIPE.batch_size, seed)
        self.next, self.running = -1, iter(())  # type: tuple[int, Iterator[tuple[Tensor, Tensor]]]

    def at(self, number: int) -> tuple[Tensor, Tensor]:
        if number != self.next:
            self.running = itertools.islice(self._from(number // self.feed.steps), number % self.feed.steps, None)
        self.next = number + 1
        return next(self.running)

    def _from(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        for each in itertools.count(epoch):
            yield from self.feed.epoch(each)
