"""Networks of timm in an image branch: they train, start from a file, and what timm does not know is refused."""

import sys

import pytest
import torch

from histofuse.io import InputError
from histofuse.models.image_survival import ImageSurvival
from histofuse.models.timm_encoder import TimmEncoder
from histofuse.models.torchvision_shim import ensure_torchvision

ensure_torchvision()
import timm  # noqa: E402

CLASS = "histofuse.models.timm_encoder:TimmEncoder"
RESNET = {"model": "resnet10t.c3_in1k"}
VIT = {"model": "test_vit.r160_in1k", "img_size": 32}


@pytest.mark.parametrize("encoder", [RESNET | {"zero_init_last": False}, VIT])
def test_a_step_trains_every_weight_of_it(encoder):
    torch.manual_seed(0)
    model = ImageSurvival({"regions": (3, 32, 32)}, 1, image={"encoder": {"class": CLASS} | encoder, "project": 4})
    before = {name: values.detach().clone() for name, values in model.named_parameters()}
    optimiser = torch.optim.Adam(model.parameters(), 0.01)
    model({"regions": torch.rand(4, 3, 32, 32)}).square().mean().backward()
    optimiser.step()
    for name, values in model.named_parameters():
        assert not torch.equal(values, before[name]), name


@pytest.mark.parametrize("encoder", [RESNET, VIT])
def test_it_is_timms_model_without_its_classifier(tmp_path, encoder):
    torch.manual_seed(0)
    theirs = timm.create_model(encoder["model"], **{key: value for key, value in encoder.items() if key != "model"})
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    ours = TimmEncoder(**encoder, checkpoint=tmp_path / "weights.pth").eval()
    images = torch.rand(2, 3, 32, 32)
    expected = theirs.eval().forward_head(theirs.forward_features(images), pre_logits=True)
    torch.testing.assert_close(ours(images), expected)
    assert expected.shape == (2, ours.width)


def test_weights_of_another_model_are_refused(tmp_path):
    torch.save(timm.create_model("test_vit", num_classes=0).state_dict(), tmp_path / "vit.pth")
    with pytest.raises(InputError, match=r"vit\.pth: the tensors do not fit the model"):
        TimmEncoder(**RESNET, checkpoint=tmp_path / "vit.pth")


def test_what_timm_does_not_know_is_refused():
    with pytest.raises(InputError, match=r"model: timm \S+ has no 'resnet81'; near it are resnet"):
        TimmEncoder("resnet81")
    with pytest.raises(InputError, match=r"resnet18: .*unexpected keyword argument 'depht'"):
        TimmEncoder("resnet18", depht=3)


def test_without_timm_the_message_says_what_is_needed(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(InputError, match="'resnet18' needs timm and torchvision"):
        TimmEncoder("resnet18")
