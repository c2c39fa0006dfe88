"""Encoders are what timm says they are, with the weights that the settings name."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import openslide
import pytest
import safetensors.torch
import torch
from PIL import Image

from histofuse.io import InputError
from histofuse.models.torchvision_shim import ensure_torchvision
from histofuse.slides import encoders, malloc
from histofuse.slides.encoders import load_encoder
from histofuse.slides.reader import open_slide

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


@pytest.mark.parametrize("cuts", [[], [5], [16], [16, 17], [1, 1, 2, 20]])
def test_features_do_not_depend_on_how_tiles_are_batched_nor_on_threads(encoder, cuts):
    tiles = np.random.default_rng(1).integers(0, 256, (21, 160, 160, 3), dtype=np.uint8)
    whole, _ = encoder.encode_all([tiles])
    threads = torch.get_num_threads()
    assert threads == 1
    torch.set_num_threads(2)
    try:
        parts, share = encoder.encode_all(iter(np.split(tiles, cuts)))
    finally:
        torch.set_num_threads(threads)
    assert parts.tobytes() == whole.tobytes()
    assert parts.shape == (21, encoder.dim)
    assert parts.dtype == np.float32
    assert 0 < share <= 1
    assert encoder.encode(tiles[7:9]).tobytes() == whole[7:9].tobytes()


def test_a_resnet_gives_the_same_bytes_on_one_and_two_threads(resnet):
    """The published network at full size: short batches let its convolutions depend on the threads."""
    tiles = np.random.default_rng(1).integers(0, 256, (3, 224, 224, 3), dtype=np.uint8)
    found, threads = [], torch.get_num_threads()
    for count in (1, 2):
        torch.set_num_threads(count)
        found.append(resnet.encode(tiles).tobytes())
    torch.set_num_threads(threads)
    assert found[0] == found[1]


def test_the_random_start_of_the_papers_encoder_stays_as_it_was(resnet):
    assert resnet.digest.startswith("d927165218bd")


def test_a_slow_reader_lowers_the_busy_share_and_its_errors_pass(encoder, tiles, monkeypatch):
    clock = iter([0.0, 6.0, 7.0, 10.0])  # start, batch there, batch done, end
    monkeypatch.setattr(encoders.time, "perf_counter", lambda: next(clock))
    assert encoder.encode_all([tiles])[1] == pytest.approx(0.1)
    monkeypatch.undo()

    def broken():
        yield tiles
        raise OSError("slide ends here")

    with pytest.raises(OSError, match="slide ends here"):
        encoder.encode_all(broken())


@pytest.mark.parametrize("batches", [[], [np.zeros((0, 160, 160, 3), np.uint8)]])
def test_no_tiles_give_no_features(encoder, batches):
    found, share = encoder.encode_all(batches)
    assert found.shape == (0, encoder.dim)
    assert found.dtype == np.float32
    assert share == 0


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


def test_truncated_weights(settings, tmp_path):
    torch.save(start_of(settings), tmp_path / "whole.pth")
    safetensors.torch.save_file(start_of(settings), tmp_path / "whole.safetensors")
    for name in ("whole.pth", "whole.safetensors"):
        content = (tmp_path / name).read_bytes()
        path = (tmp_path / name).with_stem("cut")
        for length in (0, 7, len(content) // 2, len(content) - 1):
            path.write_bytes(content[:length])
            with pytest.raises(InputError, match=rf"{path.name}: encoder weights cannot be read"):
                load_encoder(settings | {"weights": str(path)})


def test_unknown_encoders_are_told_what_there_is(settings):
    with pytest.raises(InputError, match=r"'resnet51' is neither a preset \(resnet50-stage3, .*near it are .*resnet50"):
        load_encoder(settings | {"encoder": "resnet51"})
    with pytest.raises(InputError, match=r"'resnet50\.unknown_tag'"):
        load_encoder(settings | {"encoder": "resnet50.unknown_tag"})


def test_tiles_that_a_model_cannot_take(settings, monkeypatch):
    monkeypatch.setattr(encoders, "_transform", lambda *_: ((0.5,) * 3, (0.5,) * 3, None, "bicubic"))
    with pytest.raises(InputError, match="'test_vit' does not take tiles of 100 px"):
        load_encoder(settings | {"encoder": "test_vit", "tile_px": 100})


@pytest.mark.parametrize(("name", "tile_px"), [("test_vit.r160_in1k", 200), ("test_vit.r160_in1k", 100)])
def test_tiles_are_resized_to_the_only_size_that_a_model_takes(settings, real_slide, name, tile_px):
    """As Pillow resizes and torchvision's transform would hand it on, but for Pillow's rounding to whole numbers."""
    encoder = load_encoder(settings | {"encoder": name, "tile_px": tile_px})
    with open_slide(real_slide) as slide:
        tile = slide.read(900, 1900, tile_px, 0.5)
    assert encoder.input_px == 160
    resized = np.asarray(Image.fromarray(tile).resize((160, 160), Image.Resampling.BICUBIC))
    expected = encoder.encode(resized[None])
    assert np.abs(encoder.encode(tile[None]) - expected).max() < 0.02 * expected.std()


def test_models_of_any_size_see_tiles_as_they_are(settings):
    encoder = load_encoder(settings | {"tile_px": 96})
    assert encoder.input_px is None
    assert encoder.encode(np.zeros((1, 96, 96, 3), np.uint8)).shape == (1, encoder.dim)


def test_precision(settings, encoder, tiles):
    assert encoder.precision is torch.float32 or encoder.device.type == "cuda"
    half = load_encoder(settings | {"precision": "bfloat16"})
    full = load_encoder(settings | {"precision": "float32"}).encode(tiles)
    found = half.encode(tiles)
    assert found.dtype == np.float32
    assert 0 < np.abs(found - full).max() < 0.05 * np.abs(full).max()


def test_memory_is_kept_only_while_encoding(monkeypatch):
    calls = []

    class Library:
        def mallopt(self, parameter, value):
            calls.append((parameter, value))

        def malloc_trim(self, _):
            calls.append("trim")

    monkeypatch.setattr(malloc.ctypes, "CDLL", lambda _: Library())
    monkeypatch.setattr(malloc.sys, "platform", "linux")
    monkeypatch.setattr(malloc.platform, "libc_ver", lambda: ("glibc", "2.36"))

    def fail():
        with malloc.freed_memory_kept():
            raise RuntimeError(list(calls))

    with pytest.raises(RuntimeError) as error:
        fail()
    assert error.value.args[0] == list(malloc.KEPT.items())
    assert calls[len(malloc.KEPT) :] == [*malloc.AS_BEFORE.items(), "trim"]
    assert malloc.KEPT.keys() <= malloc.AS_BEFORE.keys()
    for system, libc in (("darwin", ("", "")), ("linux", ("", ""))):
        calls.clear()
        monkeypatch.setattr(malloc.sys, "platform", system)
        monkeypatch.setattr(malloc.platform, "libc_ver", lambda libc=libc: libc)
        with malloc.freed_memory_kept():
            pass
        assert calls == []


def test_timm_loads_in_a_fresh_process_twice_over():
    code = (
        "from histofuse.models.torchvision_shim import ensure_torchvision as ensure; ensure(); ensure(); "
        "import timm, torchvision; assert timm.create_model and torchvision.transforms"
    )
    library = Path(encoders.__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=library)
