"""Features are the outputs of a network's frozen prefix: they never change, so they can be cached.

They are computed in eval mode, without a graph. Augmentation happens before: images are cropped and
mirrored, features never are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from finetune.config.experiment import Recipe
from finetune.data.augment import Index, Plan, Views
from finetune.data.device import free_memory_bytes, to_device
from finetune.data.sources import ImageSource
from finetune.data.store import allocate
from finetune.network.network import Network
from finetune.training.evaluate import normalized
from finetune.training.precision import mixed
from finetune.training.requirements import evaluation_batch_size

MEMORY_FRACTION = 4
"""Cached features may take a quarter of the free memory."""


@dataclass
class FeatureCache:
    """Cached features of one frozen prefix, shared by all runs that have the same.

    Args:
        held_out: of each batch, by split.
        views: [n x channels x height x width] of one view of each training image, by number of the view.
    """

    held_out: dict[str, list[torch.Tensor]] = field(default_factory=dict)
    views: dict[int, torch.Tensor] = field(default_factory=dict)


class FrozenPrefix:
    """The frozen prefix of a network as a source of features.

    A network whose first stage trains has an empty prefix: its features are the normalized images, and
    nothing is cached.

    Args:
        network: the whole network, on its device.
        recipe: image size and batch size.
        precision: `fp32` or `bf16`.
        views: the augmented views whose features are cached; None computes new features in every epoch.
        cache: where features are looked up and added.
        batch_ended: called after each batch that is computed for the cache; may raise to stop.
    """

    def __init__(
        self,
        network: Network,
        recipe: Recipe,
        precision: str,
        views: Views | None = None,
        cache: FeatureCache | None = None,
        batch_ended: Callable[[], None] = lambda: None,
    ) -> None:
        self.network = network
        self.recipe = recipe
        self.precision = precision
        self.views = views
        self.cache = cache or FeatureCache()
        self.batch_ended = batch_ended

    @property
    def bytes_per_image(self) -> int:
        """Size of the features of one image; 0 if the prefix is empty."""
        if self.network.n_frozen_stages == 0:
            return 0
        self.network.eval()
        size, device = self.recipe.image_size, self.network.device
        with mixed(self.precision, device):
            features = self.network.features(torch.zeros(1, 3, size, size, device=device))
        return features.numel() * features.element_size()

    def compute(self, pixels: torch.Tensor) -> torch.Tensor:
        """Features of images [b x height x width x 3] uint8, in autocast's present precision."""
        return self.network.features(normalized(pixels, self.network.device))

    def held_out(self, split: str, images: ImageSource, part: slice) -> Iterator[torch.Tensor]:
        """Features of held-out images, a batch at a time; cached if they fit.

        Args:
            split: the images' name in the cache.
            images: of the split.
            part: this process's.
        """
        if split in self.cache.held_out:
            yield from self.cache.held_out[split]
            return
        n_bytes = len(range(len(images))[part]) * self.bytes_per_image
        caches = 0 < n_bytes < cacheable_bytes(self.network.device)
        computed = []
        size = evaluation_batch_size(self.recipe, self.network.device)
        for pixels in images.batches(size, part):
            features = self.compute(pixels)
            if caches:
                computed.append(features)
            yield features
        if caches:
            self.cache.held_out[split] = computed

    def training(
        self, epoch: int, plan: Plan, batches: Sequence[Index], images: ImageSource, workers: int
    ) -> tuple[Iterator[tuple[Index, torch.Tensor]], Callable[[torch.Tensor], torch.Tensor]]:
        """An epoch's batches, and the function that turns each into features.

        They are apart so that waiting for images and computing features can be timed apart.

        Args:
            epoch: from 1.
            plan: what the epoch does to each image.
            batches: sample indices [b] of each batch.
            images: of the training split.
            workers: threads that augment.

        Raises:
            DataError: neither memory nor disk can hold the cached features.
        """
        if self.views is None or self.network.n_frozen_stages == 0:
            return images.augmented(plan, batches, self.recipe.image_size, workers), self.compute
        view = self.views.of_epoch(epoch)
        if view not in self.cache.views:
            self.cache.views[view] = self._of_view(plan, images, workers)
        features, device = self.cache.views[view], self.network.device
        rows = (to_device(torch.from_numpy(index), features.device) for index in batches)
        cached = ((i, to_device(features[row], device)) for i, row in zip(batches, rows, strict=True))
        return cached, lambda computed: computed

    def _of_view(self, plan: Plan, images: ImageSource, workers: int) -> torch.Tensor:
        """Features of one view of all n training images, in the images' own order.

        The order of the epoch does not matter, so a resumed run gets the very same values.

        Returns:
            [n x channels x height x width] in channels_last, or [n x channels] where only `fc` trains; on the
            device if they fit there, else in memory or in a temporary file.
        """
        n = len(images)
        self.network.eval()
        found = torch.empty(0)
        every = np.array_split(np.arange(n), -(-n // self.recipe.batch_size))
        with mixed(self.precision, self.network.device):
            for index, pixels in images.augmented(plan, every, self.recipe.image_size, workers):
                features = self.compute(pixels)
                if len(found) == 0:
                    found = _empty_features(n, features)
                found[int(index[0]) : int(index[-1]) + 1] = features
                self.batch_ended()
        return found


def cacheable_bytes(device: torch.device) -> int:
    """Memory that cached features may take on a device."""
    return free_memory_bytes(device) // MEMORY_FRACTION


def _empty_features(n: int, like: torch.Tensor) -> torch.Tensor:
    """Room for the features of n images."""
    n_bytes = n * like[0].numel() * like.element_size()
    if like.is_cuda and n_bytes < cacheable_bytes(like.device):
        flat = torch.empty(n_bytes, dtype=torch.uint8, device=like.device)
    else:
        flat = torch.from_numpy(allocate(n_bytes))
    return flat.view(like.dtype).view(n, *like.shape[2:], like.shape[1]).movedim(-1, 1)
