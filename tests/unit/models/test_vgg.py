"""VGG, SCNN and GSCNN: torchvision's stack and names, what is frozen, normalisation's two modes, gradients."""

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck

from histofuse.io import InputError
from histofuse.models.scnn import SCNN
from histofuse.models.torchvision_shim import ensure_torchvision
from histofuse.models.vgg import VGG, VGGFeatures, averaged_to

TINY = {"stages": ((4, 1), (6, 2)), "pooled": 2}


@pytest.fixture
def weights(tmp_path):
    """A file for the frozen stack of `TINY`."""
    torch.manual_seed(1)
    torch.save(VGGFeatures(**TINY).state_dict(), tmp_path / "tiny.pth")
    return str(tmp_path / "tiny.pth")


def parameters(model, trained=True):
    return sum(p.numel() for p in model.parameters() if p.requires_grad == trained)


@pytest.fixture(scope="module")
def released():
    """torchvision's VGG11-BN (its release has VGG19-BN's names), untrained but with moved statistics."""
    ensure_torchvision()
    from torchvision.models import vgg11_bn

    torch.manual_seed(0)
    model = vgg11_bn(weights=None)
    model.features(torch.rand(4, 3, 64, 64))
    return model.eval()


VGG11 = ((64, 1), (128, 1), (256, 2), (512, 2), (512, 2))


def test_it_is_torchvisions_stack_with_its_file(tmp_path, released):
    torch.save(released.state_dict(), tmp_path / "vgg.pth")
    model = VGGFeatures(VGG11, checkpoint=tmp_path / "vgg.pth").eval()
    images = torch.rand(2, 3, 96, 80)
    with torch.inference_mode():
        expected = released.avgpool(released.features(images)).flatten(1)
        torch.testing.assert_close(model(images), expected)
        images = torch.rand(1, 3, 256, 256)  # 8 × 8 maps, averaged to 7 × 7
        torch.testing.assert_close(model(images), released.avgpool(released.features(images)).flatten(1))


def test_a_file_without_counters_loads_as_well(tmp_path, released):
    state = {name: value for name, value in released.state_dict().items() if "num_batches" not in name}
    torch.save(state, tmp_path / "vgg.pth")
    model = VGGFeatures(VGG11, checkpoint=tmp_path / "vgg.pth")
    assert torch.equal(model.features[1].running_mean, released.features[1].running_mean)


def test_a_file_of_another_depth_is_refused(tmp_path, released):
    torch.save(released.state_dict(), tmp_path / "vgg.pth")
    with pytest.raises(InputError, match=r"vgg\.pth: the tensors do not fit the model \(\d+ missing: features"):
        VGGFeatures(checkpoint=tmp_path / "vgg.pth")


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"vgg\.pth: there is no such file"):
        VGG(checkpoint=str(tmp_path / "vgg.pth"), **TINY)


def test_pathomic_fusions_network_has_its_number_of_parameters():
    with torch.device("meta"):
        model = VGG(frozen=False)
    assert model.stack.width == 25_088
    assert parameters(model.layers) + 33 == 26_773_569  # with the unit behind it; what is trained
    assert parameters(model.stack) == 143_678_248 - 123_642_856  # VGG19-BN without its classifier


def test_a_random_stack_is_not_frozen(weights):
    with pytest.raises(InputError, match=r"params: checkpoint: frozen convolutions need a file .*frozen: false"):
        VGG(**TINY)
    assert parameters(VGG(checkpoint=weights, **TINY).stack) == 0
    assert parameters(VGG(frozen=False, **TINY).stack, trained=False) == 0


@pytest.mark.parametrize(("h", "w", "side"), [(16, 16, 7), (7, 7, 7), (8, 5, 3), (2, 2, 7), (9, 14, 7)])
def test_averaging_is_adaptive_average_pooling(h, w, side):
    maps = torch.rand(2, 3, h, w, dtype=torch.float64)
    torch.testing.assert_close(averaged_to(maps, side), nn.functional.adaptive_avg_pool2d(maps, side))


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_frozen_convolutions_stay_and_statistics_move_in_one_mode_only(mode, weights):
    torch.manual_seed(0)
    model = VGG(hidden=(8, 4), dropout=(0, 0), bn_mode=mode, checkpoint=weights, **TINY).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1)
    model(torch.rand(4, 3, 16, 16)).sum().backward()
    optimiser.step()
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert not any(name.startswith("stack.features") and "weight" in name for name in moved)
    assert any("running_mean" in name for name in moved) == (mode == "train")
    assert "layers.0.weight" in moved


def test_by_stored_statistics_a_row_does_not_depend_on_its_batch(weights):
    torch.manual_seed(0)
    images = torch.rand(4, 3, 16, 16)
    fixed = VGG(hidden=(4,), dropout=(0,), checkpoint=weights, **TINY).train()
    torch.testing.assert_close(fixed(images)[:1], fixed(images[:1]))
    moving = VGG(hidden=(4,), dropout=(0,), bn_mode="train", checkpoint=weights, **TINY).train()
    assert not torch.allclose(moving(images)[:1], moving(images[:1]))


@pytest.mark.parametrize("batch_norm", [True, False])
def test_gradients(batch_norm):
    torch.manual_seed(0)
    model = VGG(hidden=(5, 3), dropout=(0, 0), frozen=False, batch_norm=batch_norm, **TINY).double()
    images = torch.rand(2, 3, 12, 12, dtype=torch.float64, requires_grad=True)
    assert gradcheck(model, images, fast_mode=True)
    model(images).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bn_mode": "frozen"}, "bn_mode: 'frozen' is not one of eval, train"),
        ({"hidden": (4, 4), "dropout": (0,)}, "hidden has 2 layers and dropout 1 figures"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        VGG(**(TINY | options))


def test_scnn_and_gscnn():
    torch.manual_seed(0)
    settings = {"hidden": (8, 6), "dropout": 0.0, **TINY}
    batch = {"regions": torch.rand(4, 3, 16, 16), "alterations": torch.rand(4, 2)}
    alone = SCNN({"regions": (3, 16, 16)}, 1, **settings)
    both = SCNN({"regions": (3, 16, 16), "alterations": (2,)}, 1, **settings)
    assert alone(batch).shape == both(batch).shape == (4, 1)
    assert both.layers[0].in_features == alone.layers[0].in_features + 2 == 6 * 4 + 2
    assert alone.head.bias is None
    both.eval()
    changed = batch | {"alterations": batch["alterations"] + 1}
    assert not torch.allclose(both(batch), both(changed))
    both(batch).sum().backward()
    assert all(p.grad is not None for p in both.parameters())
    assert SCNN({"regions": (3, 16, 16)}, 3, **settings).head.bias is not None
