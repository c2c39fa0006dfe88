"""Images made of regions in batches, against one image at a time by Pillow, colorsys and loops in float64."""

import colorsys

import numpy as np
import pytest
import torch
from PIL import Image
from region_examples import noise, write_regions

from histofuse.training.augment import DRAWS, RegionImages, flipped, jittered, resized
from histofuse.training.regions import JITTER, NORMALISATIONS, RegionStore

CPU = torch.device("cpu")
CASES = [f"C{k}" for k in range(5)]


@pytest.fixture
def store(tmp_path):
    return RegionStore(*write_regions(tmp_path, noise(5, 64), CASES), crop_px=40, stride_px=12, input_px=16)


def naive_jitter(image, brightness, contrast, saturation, hue):
    """float64 [h, w, 3] in 0 to 1."""
    image = np.clip(image * (1 + brightness), 0, 1)
    grey = np.mean([0.299 * r + 0.587 * g + 0.114 * b for r, g, b in image.reshape(-1, 3)])
    image = np.clip(grey + (1 + contrast) * (image - grey), 0, 1)
    out = np.empty_like(image)
    for y, x in np.ndindex(image.shape[:2]):
        r, g, b = image[y, x]
        grey = 0.299 * r + 0.587 * g + 0.114 * b
        h, s, v = colorsys.rgb_to_hsv(*(np.clip(grey + (1 + saturation) * (c - grey), 0, 1) for c in (r, g, b)))
        out[y, x] = colorsys.hsv_to_rgb((h + hue) % 1, s, v)
    return out


@pytest.mark.parametrize("strength", [1, 10])
def test_jitter_equals_the_naive_form(strength):
    rng = np.random.default_rng(0)
    images = rng.random((6, 9, 7, 3))
    images[0, :3] = images[0, :3, :, :1]  # greys
    images[1] = np.round(images[1])  # pure colours, black and white
    figures = rng.uniform(-1, 1, (6, 4)) * list(JITTER.values()) * strength
    figures[5] = 0
    changed = jittered(torch.tensor(images).permute(0, 3, 1, 2).clone(), *torch.tensor(figures).T)
    for image, figure, ours in zip(images, figures, changed.permute(0, 2, 3, 1).numpy()):
        np.testing.assert_allclose(ours, naive_jitter(image, *figure), atol=1e-6)
    np.testing.assert_allclose(changed[5].permute(1, 2, 0), images[5], atol=1e-6)


@pytest.mark.parametrize("size", [16, 15, 40, 64])
def test_resizing_is_pillows(size):
    crops = noise(3, 40)
    ours = resized(torch.from_numpy(crops), size)
    assert ours.dtype == torch.float32
    assert ours.is_contiguous()
    for crop, image in zip(crops, ours):
        naive = np.asarray(Image.fromarray(crop).resize((size, size), Image.Resampling.BILINEAR), np.float64) / 255
        np.testing.assert_allclose(image.permute(1, 2, 0).numpy(), naive, atol=1.01 / 255)


def test_resizing_leaves_the_crops_as_they_are():
    crops = torch.from_numpy(noise(2, 16))
    before = crops.clone()
    resized(crops, 16).zero_()
    assert torch.equal(crops, before)


def test_flips():
    image = torch.arange(12.0).view(1, 3, 2, 2).repeat(4, 1, 1, 1)
    ours = flipped(image, torch.tensor([False, True, False, True]), torch.tensor([False, False, True, True]))
    expected = [image[0], image[0].flip(2), image[0].flip(1), image[0].flip(1, 2)]
    assert torch.equal(ours, torch.stack(expected))


@pytest.mark.parametrize("resident", [False, True])
def test_a_training_image_is_what_was_drawn_for_its_row(store, resident):
    regions = np.array([4, 0, 2, 2, 1])
    images = RegionImages(store, regions, CPU, resident)
    images.draw(seed=3, epoch=5)
    rows = np.array([3, 0, 4])
    ours = images.random_crops(rows, torch.from_numpy(rows))
    assert ours.shape == (3, 3, 16, 16)
    drawn = np.random.default_rng((3, 5, 1)).random((5, len(DRAWS)), np.float32)
    mean, sd = NORMALISATIONS["imagenet"]
    for row, image in zip(rows, ours):
        u = dict(zip(DRAWS, drawn[row].tolist()))
        x, y = int(u["x"] * 25), int(u["y"] * 25)
        picture = Image.fromarray(store.pixels[regions[row], y : y + 40, x : x + 40])
        if u["mirrored"] < 0.5:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if u["upside_down"] < 0.5:
            picture = picture.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
        naive = np.asarray(picture.resize((16, 16), Image.Resampling.BILINEAR), np.float64) / 255
        naive = naive_jitter(naive, *((2 * u[what] - 1) * most for what, most in JITTER.items()))
        ours_in_colour = image.permute(1, 2, 0).numpy() * sd + mean
        np.testing.assert_allclose(ours_in_colour, naive, atol=2.5 / 255)


def test_draws_fill_the_region_and_depend_on_seed_and_epoch(store):
    images = RegionImages(store, np.zeros(4000, int), CPU)
    drawn = {}
    for key in [(0, 0), (0, 1), (1, 0)]:
        images.draw(*key)
        assert images._at.min() == 0
        assert images._at.max() == 24
        drawn[key] = images._drawn
    assert not np.array_equal(drawn[0, 0], drawn[0, 1])
    assert not np.array_equal(drawn[0, 0], drawn[1, 0])
    images.draw(0, 1)
    np.testing.assert_array_equal(images._drawn, drawn[0, 1])


def test_a_row_has_the_same_image_in_every_batch(store):
    images = RegionImages(store, np.arange(5), CPU)
    images.draw(0, 0)
    take = lambda *rows: images.random_crops(np.array(rows), torch.tensor(rows))  # noqa: E731
    assert torch.equal(take(0, 1, 2, 3, 4)[[3, 1]], take(3, 1))
    assert torch.equal(take(4)[0], take(2, 1, 4)[2])


@pytest.mark.parametrize("resident", [False, True])
@pytest.mark.parametrize("normalise", ["imagenet", "half"])
def test_fixed_crops_are_unchanged_and_in_order(tmp_path, resident, normalise):
    files = write_regions(tmp_path, noise(5, 64), CASES)
    store = RegionStore(*files, crop_px=16, stride_px=24, input_px=16, normalise=normalise)
    images = RegionImages(store, np.array([2, 0]), CPU, resident)
    ours = images.fixed_crops(np.array([1, 0]), torch.tensor([1, 0]))
    assert ours.shape == (2 * 9, 3, 16, 16)
    mean, sd = NORMALISATIONS[normalise]
    naive = np.stack(
        [store.pixels[region, y : y + 16, x : x + 16] for region in (0, 2) for y in (0, 24, 48) for x in (0, 24, 48)]
    )
    np.testing.assert_allclose(ours.permute(0, 2, 3, 1).numpy(), (naive / 255 - mean) / sd, atol=1e-5)


def test_without_augmentation_only_the_crop_is_random(tmp_path):
    files = write_regions(tmp_path, noise(5, 64), CASES)
    store = RegionStore(*files, crop_px=16, stride_px=16, input_px=16, augment=False, normalise="half")
    images = RegionImages(store, np.arange(5), CPU)
    images.draw(0, 0)
    rows = np.arange(5)
    cut = store.cut(rows, images._at) / 127.5 - 1
    np.testing.assert_allclose(images.random_crops(rows, torch.from_numpy(rows)).permute(0, 2, 3, 1), cut, atol=1e-5)


def test_crops_must_be_drawn_first(store):
    with pytest.raises(RuntimeError, match="draw an epoch's crops before"):
        RegionImages(store, np.arange(5), CPU).random_crops(np.array([0]), torch.tensor([0]))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("resident", [False, True])
def test_on_a_gpu_the_same_images_without_waiting(store, resident):
    device, rows = torch.device("cuda"), np.array([3, 0, 4])
    on = {where: RegionImages(store, np.arange(5), where, resident) for where in (CPU, device)}
    made = {}
    for where, images in on.items():
        index = torch.from_numpy(rows).to(where)
        images.draw(0, 2)
        images.random_crops(rows, index)  # the first call may wait, for memory and kernels
        mode = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("error")
        made[where] = (images.random_crops(rows, index), images.fixed_crops(rows, index))
        torch.cuda.set_sync_debug_mode(mode)
    for ours, naive in zip(made[device], made[CPU]):
        torch.testing.assert_close(ours.cpu(), naive, atol=2 / 255 / 0.225, rtol=0)
