"""Encoders are what timm says they are, with the weights that the settings name."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import openslide
import pytest
import safetensors.torch
import torch

from histofuse.io import InputError
from histofuse.slides import encoders
from histofuse.slides.encoders import load_encoder
from histofuse.slides.reader import open_slide
from histofuse.slides.torchvision_shim import ensure_torchvision

ensure_torchvision()
import timm  # noqa: E402

IMAGENET_MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
IMAGENET_STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


@pytest.fixture(scope="module")
def resnet_settings(settings):
    return settings | {"encoder": "resnet50-stage3", "tile_px": 224}


@pytest.fixture(scope="module")
def resnet(resnet_settings):
    return load_encoder(resnet_settings)


@pytest.fixture
def tiles():
    return np.random.default_rng(0).integers(0, 256, (5, 160, 160, 3), dtype=np.uint8)


def start_of(settings):
    """The random weights of the small network, from an independent call of timm."""
    model = timm.create_model(settings["encoder"], num_classes=0)
    generator = torch.Generator().manual_seed(7)
    return {k: torch.rand(v.shape, generator=generator) * 0.1 + 0.01 for k, v in model.state_dict().items()}


def test_features_equal_the_plain_road(real_slide, tmp_path, resnet_settings, resnet):
    """OpenSlide, Pillow and a whole ResNet-50 run layer by layer, with weights handed over in a file."""
    torch.manual_seed(3)
    whole = timm.create_model("resnet50.tv_in1k", zero_init_last=False).eval()
    torch.save(whole.state_dict(), tmp_path / "resnet50.pth")
    encoder = load_encoder(resnet_settings | {"weights": str(tmp_path / "resnet50.pth")})
    assert encoder.dim == resnet.dim == 1024
    assert encoder.digest != resnet.digest

    places = [(900, 800), (1000, 1600)]
    with openslide.OpenSlide(real_slide) as slide:
        images = [slide.read_region(place, 0, (224, 224)).convert("RGB") for place in places]
    expected = []
    for image in images:
        x = torch.from_numpy(np.asarray(image, np.float32).transpose(2, 0, 1) / 255)
        x = (x - IMAGENET_MEAN) / IMAGENET_STD
        with torch.no_grad():
            x = whole.maxpool(whole.act1(whole.bn1(whole.conv1(x[None]))))
            expected.append(whole.layer3(whole.layer2(whole.layer1(x))).mean((2, 3))[0].numpy())
    with open_slide(real_slide) as slide:
        found = encoder.encode(np.stack([slide.read(*place, 224, 0.5) for place in places]))
    np.testing.assert_allclose(found, np.stack(expected), atol=1e-4)


def test_normalisations_are_folded(resnet):
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in resnet.module.modules())


def test_folding_is_dropped_where_it_would_change_the_function():
    class NormFirst(torch.nn.Module):
        """The children stand in the order in which folding expects them, but are applied the other way round."""

        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 3, 3)
            self.norm = torch.nn.BatchNorm2d(3)
            self.norm.running_mean += 5

        def forward(self, x):
            return self.conv(self.norm(x))

    module = NormFirst().eval()
    assert encoders._folded(module, 16) is module


def test_random_weights_are_the_same_every_time_and_tell_tiles_apart(resnet_settings, resnet, real_slide):
    state = torch.random.get_rng_state()
    again = load_encoder(resnet_settings)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert again.digest == resnet.digest
    with open_slide(real_slide) as slide:
        places = [(1000, 1000), (900, 1900), (1100, 2300), (1400, 1700)]
        features = resnet.encode(np.stack([slide.read(*place, 224, 0.5) for place in places]))
    assert 0.1 < features.std() < 10
    cosines = np.corrcoef(features)[np.triu_indices(4, 1)]
    assert cosines.max() < 0.999


def test_a_feature_hardly_depends_on_its_neighbours(encoder, tiles):
    alone = np.concatenate([encoder.encode(tile[None]) for tile in tiles])
    np.testing.assert_allclose(encoder.encode(tiles), alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weights_from_a_file(settings, tmp_path, tiles, suffix):
    state = start_of(settings)
    path = tmp_path / f"weights{suffix}"
    # A classifier that the encoder has no use for is in every published file; counters are missing in old ones.
    extra = {k: v for k, v in state.items() if "num_batches" not in k} | {"fc.weight": torch.zeros(2, 2)}
    if suffix == ".pth":
        torch.save({"state_dict": extra}, path)
    else:
        safetensors.torch.save_file(extra, path)
    model = timm.create_model(settings["encoder"], num_classes=0).eval()
    model.load_state_dict(state)
    found = load_encoder(settings | {"weights": str(path)})
    config = timm.data.resolve_data_config({}, model=model)
    x = torch.from_numpy(tiles).permute(0, 3, 1, 2) / 255
    x = (x - torch.tensor(config["mean"]).view(3, 1, 1)) / torch.tensor(config["std"]).view(3, 1, 1)
    with torch.no_grad():
        expected = model(x).numpy()
    np.testing.assert_allclose(found.encode(tiles), expected, rtol=1e-3, atol=1e-4)


def test_weights_that_do_not_fit_are_named(settings, tmp_path):
    state = start_of(settings)
    key = next(iter(state))
    path = tmp_path / "weights.pth"

    def error_of(content):
        torch.save(content, path)
        with pytest.raises(InputError) as error:
            load_encoder(settings | {"weights": str(path)})
        assert "weights.pth" in str(error.value)
        return str(error.value)

    assert f"1 missing: {key}" in error_of({k: v for k, v in state.items() if k != key})
    assert "1 unknown: nonsense.weight" in error_of(state | {"nonsense.weight": torch.zeros(1)})
    assert f"1 of another shape: {key}" in error_of(state | {key: torch.zeros(1)})
    assert "missing" in error_of(torch.zeros(3))


def test_files_that_are_no_weights(settings, tmp_path):
    class Harmful:
        def __reduce__(self):
            return (open, (str(tmp_path / "written"), "w"))

    torch.save({"conv1.weight": Harmful()}, tmp_path / "harmful.pth")
    (tmp_path / "text.safetensors").write_text("no tensors")
    for name in ("harmful.pth", "text.safetensors", "absent.pth"):
        with pytest.raises(InputError, match=f"{name}: encoder weights cannot be read"):
            load_encoder(settings | {"weights": str(tmp_path / name)})
    assert not (tmp_path / "written").exists()


def test_unknown_encoder_and_wrong_tile_size(settings):
    with pytest.raises(InputError, match="'resnet51'"):
        load_encoder(settings | {"encoder": "resnet51"})
    with pytest.raises(InputError, match="does not take tiles of 256 px"):
        load_encoder(settings | {"encoder": "vit_tiny_patch16_224", "tile_px": 256})


def test_any_pooled_model_of_timm(settings):
    encoder = load_encoder(settings | {"encoder": "test_vit.r160_in1k"})
    tiles = np.zeros((2, 160, 160, 3), np.uint8)
    assert encoder.encode(tiles).shape == (2, encoder.dim)


def test_timm_loads_in_a_fresh_process_twice_over():
    code = (
        "from histofuse.slides.torchvision_shim import ensure_torchvision as ensure; ensure(); ensure(); "
        "import timm, torchvision; assert timm.create_model and torchvision.transforms"
    )
    library = Path(encoders.__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=library)
