"""The history of generated images that a discriminator learns from beside the newest ones.

Shrivastava et al. 2017 (arXiv:1612.07828), sec. 2.3; Zhu et al. 2017, sec. 4: a pool of 50 images.
"""

import torch
from torch import Tensor, nn

from lib.distributed import of_all_ranks, shard
from lib.seeding import generator


class ImagePool(nn.Module):
    """The last images shown, or so: `swap` gives each new one back, or an old one in its place.

    A module, so that a checkpoint holds the images. Which ones are drawn is a function of the key
    and the step, and how many there are one of the step, so that nothing else needs to be kept.
    """

    def __init__(self, size: int, image_shape: tuple[int, ...], *, key: tuple[str | int, ...]):
        super().__init__()
        self.size, self.key = size, key
        self.register_buffer("images", torch.zeros(size, *image_shape))

    @torch.no_grad()
    def swap(self, images: Tensor, step: int) -> Tensor:
        """images (N, C, S, S), as many at every step, counted from 0 -> as many, without gradient.

        One by one: while the pool is not full it takes the image and gives it back. Then, at even
        chance, it gives the image back and forgets it, or gives an old one and keeps it instead.
        """
        images = of_all_ranks(images.detach().float())  # all processes keep one and the same pool
        given, kept = self.choose(len(images), step)
        both = torch.cat([self.images, images])
        given, kept = (torch.tensor(x, device=both.device) for x in (given, kept))
        self.images.copy_(both[kept])
        return shard(both[given])

    def choose(self, n: int, step: int) -> tuple[list[int], list[int]]:
        """Choose, among the pool's images and the n new ones, those given back and those kept."""
        stream = generator("cpu", "image pool", *self.key, step)
        swaps = (torch.rand(n, generator=stream) < 0.5).tolist()
        places = torch.randint(self.size, (n,), generator=stream).tolist()
        filled = min(step * n, self.size)
        kept, given = list(range(self.size)), []
        for new, swapped, place in zip(range(self.size, self.size + n), swaps, places, strict=True):
            shown = new
            if filled < self.size:
                kept[filled] = new
                filled += 1
            elif swapped:
                shown, kept[place] = kept[place], new
            given.append(shown)
        return given, kept
