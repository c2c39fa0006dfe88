"""Model inputs from regions, whole batches at a time on the device: crops, flips, colours, size, normalisation.

All random figures of an epoch are drawn beforehand from (seed, epoch), a line for each row of the split: what becomes
of a row depends neither on its batch nor on where a run was interrupted. Nothing here waits for the device.
"""

from __future__ import annotations

from collections.abc import Callable

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
            resident = device.type == "cuda" and room_for(len(np.unique(self.regions)) * store.side**2 * 3, device)
        self.resident = resident
        if resident:
            held, place = np.unique(self.regions, return_inverse=True)
            self._pixels = torch.empty((len(held), *store.pixels.shape[1:]), dtype=torch.uint8, device=device)
            for target, region in zip(self._pixels, held, strict=True):
                target.copy_(torch.from_numpy(store.pixels[region]))
            self._place = torch.from_numpy(place).to(device)
        self._mean, self._sd = (torch.tensor(v, device=device).view(1, 3, 1, 1) for v in (store.mean, store.sd))
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
        drawn = self._drawn_device[index]
        if self.resident:
            return self._changed(self._gather(index, self._at_device[index]), drawn)
        return self._from_map(rows, self._at[rows], lambda crops, some: self._changed(crops, drawn[some]))

    def fixed_crops(self, rows: np.ndarray, index: Tensor, middle: bool = False) -> Tensor:
        """All fixed crops of each row, row by row, unchanged: float32 [batch · crops, 3, input_px, input_px].

        middle: only the middle one of each.
        """
        corners = self.store.corners
        if middle:
            corners = corners[len(corners) // 2][None]
        many = len(corners)
        if self.resident:
            repeated = to_device(corners, self.device).repeat(len(rows), 1)
            return self._unchanged(self._gather(index.repeat_interleave(many), repeated))
        corners = np.tile(corners, (len(rows), 1))
        return self._from_map(rows.repeat(many), corners, lambda crops, _: self._unchanged(crops))

    def _from_map(self, rows: np.ndarray, corners: np.ndarray, change: Callable[[Tensor, slice], Tensor]) -> Tensor:
        """Cut crops from the map and change them: one by one on a CPU, in whose cache an image's planes then stay."""
        size = 1 if self.device.type == "cpu" else len(rows)
        images = torch.empty(len(rows), 3, self.store.input_px, self.store.input_px, device=self.device)
        for start in range(0, len(rows), size):
            some = slice(start, start + size)
            crops = to_device(self.store.cut(self.regions[rows[some]], corners[some]), self.device)
            images[some] = change(crops, some)
        return images

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

    def _unchanged(self, crops: Tensor) -> Tensor:
        return self._normalised(resized(crops, self.store.input_px))

    def _normalised(self, images: Tensor) -> Tensor:
        return images.sub_(self._mean).div_(self._sd)


def resized(crops: Tensor, size: int) -> Tensor:
    """uint8 [n, crop, crop, 3] → float32 [n, 3, size, size] in 0 to 1: bilinear, antialiased where it gets smaller.

    On a CPU bytes are resized, as Pillow does, 20 times as fast as floats; an accelerator does without their rounding,
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
    for axis, turned in ((3, mirrored), (2, upside_down)):
        images = torch.lerp(images, images.flip(axis), turned.to(images).view(-1, 1, 1, 1))  # exact for 0 and 1
    return images


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
    value = torch.maximum(torch.maximum(red, green), blue)
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    # 1 where the largest channel is red, else green, else blue; `where` takes six times as long on a CPU.
    is_red = (red - value).sign_().add_(1)
    is_green = (green - value).sign_().add_(1).mul_(1 - is_red)
    is_blue = 1 - is_red - is_green
    # The hue in sixths of a turn from red. Grey pixels have none, nor need one.
    sixths = is_red.mul_(green - blue)
    sixths += is_green.mul_((blue - red).add_(chroma, alpha=2))
    sixths += is_blue.mul_((red - green).add_(chroma, alpha=4))
    sixths.div_(chroma.clamp(min=1e-12)).add_(6 * hue.view(-1, 1, 1))
    for channel, opposite in enumerate((3, 5, 1)):  # red is at its least 1 sixth around cyan, and so on
        away = sixths - opposite
        away.sub_((away / 6).round_(), alpha=6)  # −3 to 3; a fifth of the time that the remainder takes
        least = away.abs_().neg_().add_(2).clamp_(0, 1)
        torch.addcmul(value, chroma, least, value=-1, out=images[:, channel])
    return images


def to_device(values: np.ndarray, device: torch.device) -> Tensor:
    """The same on the device; an accelerator need not have finished what it is doing."""
    tensor = torch.from_numpy(values)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def room_for(size: int, device: torch.device) -> bool:
    """Whether an accelerator has room for so many bytes of data beside a model."""
    return size <= SHARE_OF_MEMORY * torch.cuda.mem_get_info(device)[0]
