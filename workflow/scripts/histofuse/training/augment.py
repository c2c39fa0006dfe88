"""Model inputs from regions, whole batches at a time on the device: crops, flips, colours, size, normalisation.

All random figures of an epoch are drawn beforehand from (seed, epoch), a line for each row of the split: what becomes
of a row depends neither on its batch nor on where a run was interrupted. Nothing here waits for the device.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from histofuse.training.regions import RegionStore

GREY = (0.299, 0.587, 0.114)  # of red, green, blue: luma of ITU-R BT.601
# A line of random figures, each uniform in [0, 1).
DRAWS = ("x", "y", "mirrored", "upside_down", "brightness", "contrast", "saturation", "hue")
COLOURS = DRAWS[4:]
SHARE_OF_MEMORY = 0.5  # of what is free on the device, that regions may take for the whole run
CHUNK_ON_CPU = 2  # images at a time: their planes then stay in the processor's cache


class RegionImages:
    """The regions of a split's rows as model inputs on a device.

    An accelerator with room for them gets the split's regions once; otherwise crops are cut from the memory map and
    sent batch by batch. Both give the same.

    Args:
        store: the packed regions; regions: int64 [row], which of them each row of the split is; device: of the model.
        resident: whether they are held on the device; None decides by its free memory (never on a CPU, which shares
            the map's pages).
    """

    def __init__(self, store: RegionStore, regions: np.ndarray, device: torch.device, resident: bool | None = None):
        self.store, self.device = store, device
        self.regions = np.asarray(regions)
        if resident is None:
            resident = device.type == "cuda" and _room_for(len(np.unique(self.regions)) * store.side**2 * 3, device)
        self.resident = resident
        if resident:
            held, place = np.unique(self.regions, return_inverse=True)
            self._pixels = torch.empty((len(held), *store.pixels.shape[1:]), dtype=torch.uint8, device=device)
            for target, region in zip(self._pixels, held, strict=True):
                target.copy_(torch.from_numpy(store.pixels[region]))
            self._place = torch.from_numpy(place).to(device)
        self._mean, self._sd = (torch.tensor(v, device=device).view(1, 3, 1, 1) for v in (store.mean, store.sd))
        self._corners = torch.from_numpy(store.corners).to(device)
        self._drawn = None

    def draw(self, seed: int, epoch: int) -> None:
        """Draw this epoch's crops and changes, a line for each row."""
        # The third number keeps them apart from the order of the rows, which is drawn from the first two.
        self._drawn = np.random.default_rng((seed, epoch, 1)).random((len(self.regions), len(DRAWS)), np.float32)
        room = self.store.side - self.store.crop + 1
        self._at = np.minimum((self._drawn[:, :2] * room).astype(np.int64), room - 1)
        self._at_device = to_device(self._at, self.device)
        self._drawn_device = to_device(self._drawn, self.device)

    def random_crops(self, rows: np.ndarray, index: Tensor) -> Tensor:
        """One crop of each row, as drawn: float32 [batch, 3, input_px, input_px]. `index`: rows, on the device."""
        if self._drawn is None:
            raise RuntimeError("draw an epoch's crops before asking for them")
        crops = self._cut(rows, self._at[rows]) if not self.resident else self._gather(index, self._at_device[index])
        drawn = self._drawn_device[index]
        return self._in_chunks(lambda some: self._changed(crops[some], drawn[some]), len(crops))

    def fixed_crops(self, rows: np.ndarray, index: Tensor, middle: bool = False) -> Tensor:
        """All fixed crops of each row, row by row, unchanged: float32 [batch · crops, 3, input_px, input_px].

        middle: only the middle one of each.
        """
        count = len(self._corners)
        chosen = slice(count // 2, count // 2 + 1) if middle else slice(count)
        corners = self.store.corners[chosen]
        if self.resident:
            crops = self._gather(index.repeat_interleave(len(corners)), self._corners[chosen].repeat(len(rows), 1))
        else:
            crops = self._cut(rows.repeat(len(corners)), np.tile(corners, (len(rows), 1)))
        return self._in_chunks(lambda some: self._normalised(resized(crops[some], self.store.input_px)), len(crops))

    def _cut(self, rows: np.ndarray, corners: np.ndarray) -> Tensor:
        return to_device(self.store.cut(self.regions[rows], corners), self.device)

    def _gather(self, index: Tensor, corners: Tensor) -> Tensor:
        """`RegionStore.cut` on the device: rows [n] and corners [n, 2] → uint8 [n, crop, crop, 3]."""
        step = torch.arange(self.store.crop, device=self.device)
        x, y = (corners[:, axis, None] + step for axis in (0, 1))
        return self._pixels[self._place[index][:, None, None], y[:, :, None], x[:, None, :]]

    def _changed(self, crops: Tensor, drawn: Tensor) -> Tensor:
        images = resized(crops, self.store.input_px)
        if self.store.augment:
            images = flipped(images, drawn[:, 2] < 0.5, drawn[:, 3] < 0.5)
            changes = 2 * drawn[:, 4:] - 1
            images = jittered(images, *(changes[:, k] * self.store.jitter[what] for k, what in enumerate(COLOURS)))
        return self._normalised(images)

    def _normalised(self, images: Tensor) -> Tensor:
        return images.sub_(self._mean).div_(self._sd)

    def _in_chunks(self, change, n: int) -> Tensor:
        """All at once on an accelerator, a few at a time on a CPU."""
        size = CHUNK_ON_CPU if self.device.type == "cpu" else n
        parts = [change(slice(start, start + size)) for start in range(0, n, size)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)


def resized(crops: Tensor, size: int) -> Tensor:
    """uint8 [n, crop, crop, 3] → float32 [n, 3, size, size] in 0 to 1: bilinear, antialiased where it gets smaller.

    On a CPU bytes are resized, as Pillow does, 15 times as fast as floats; an accelerator does without their rounding,
    which makes a difference of less than 1/255.
    """
    images = crops.permute(0, 3, 1, 2)
    if crops.is_cuda:
        images = images.float()
    if crops.shape[1] != size:
        images = F.interpolate(images, size=(size, size), mode="bilinear", antialias=True)
    return images.to(torch.float32, memory_format=torch.contiguous_format, copy=True).mul_(1 / 255)


def flipped(images: Tensor, mirrored: Tensor, upside_down: Tensor) -> Tensor:
    """Images [n, 3, h, w], each turned left to right and upside down where its entry of bool [n] says so."""
    images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
    return torch.where(upside_down[:, None, None, None], images.flip(2), images)


def jittered(images: Tensor, brightness: Tensor, contrast: Tensor, saturation: Tensor, hue: Tensor) -> Tensor:
    """Change the colours of images [n, 3, h, w] in 0 to 1, in place; each is changed by its own figures [n].

    In this order: brightness, times 1 + b; contrast, times 1 + c around the image's mean grey; saturation, times
    1 + s around each pixel's grey; hue, turned by h turns (of HSV). Each is clipped to 0 to 1.
    """
    one = (len(images), 1, 1, 1)
    images.mul_((1 + brightness).view(one)).clamp_(max=1)
    grey = _grey(images).mean(dim=(1, 2, 3), keepdim=True)
    images.mul_((1 + contrast).view(one)).sub_(grey * contrast.view(one)).clamp_(0, 1)
    grey = _grey(images)
    images.mul_((1 + saturation).view(one)).sub_(grey * saturation.view(one)).clamp_(0, 1)
    return _turned(images, hue)


def _grey(images: Tensor) -> Tensor:
    """[n, 3, h, w] → [n, 1, h, w]"""
    red, green, blue = images.split(1, dim=1)
    return (red * GREY[0]).add_(green, alpha=GREY[1]).add_(blue, alpha=GREY[2])


def _turned(images: Tensor, hue: Tensor) -> Tensor:
    """Turn the hue of each image by its own share of a turn; value and saturation of every pixel remain."""
    red, green, blue = images.unbind(1)
    value = images.amax(1)
    chroma = value - images.amin(1)
    # Sixths of a turn from red, where the largest channel is red, green or blue. Grey pixels have none, nor need one.
    sixths = torch.where(
        value == red,
        green - blue,
        torch.where(value == green, (blue - red).add_(chroma, alpha=2), (red - green).add_(chroma, alpha=4)),
    ).div_(chroma.clamp(min=1e-12))
    sixths += 6 * hue.view(-1, 1, 1)
    for channel, first in enumerate((5.0, 3.0, 1.0)):
        away = torch.remainder(sixths + first, 6)  # the channel is at its least from 1 to 3 sixths away
        least = torch.minimum(away, 4 - away).clamp_(0, 1)
        images[:, channel] = value - chroma * least
    return images


def to_device(values: np.ndarray, device: torch.device) -> Tensor:
    """The same on the device; an accelerator need not have finished what it is doing."""
    tensor = torch.from_numpy(values)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def _room_for(size: int, device: torch.device) -> bool:
    return size <= SHARE_OF_MEMORY * torch.cuda.mem_get_info(device)[0]
