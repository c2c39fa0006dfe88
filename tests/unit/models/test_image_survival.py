"""One image network and a linear head."""

import pytest
import torch

from histofuse.io import InputError
from histofuse.models.image_survival import ImageSurvival
from histofuse.models.t2t_checkpoint import t2t_encoder

T2T = {"width": 16, "depth": 2, "heads": 2, "token_width": 8}
VGG = {
    "class": "histofuse.models.vgg:VGG",
    "stages": ((4, 1),),
    "pooled": 2,
    "hidden": (8,),
    "dropout": (0.1,),
    "frozen": False,
}
SHAPES = {"regions": (3, 32, 32)}


@pytest.mark.parametrize("encoder", [T2T, VGG])
@pytest.mark.parametrize("outputs", [1, 4])
def test_the_output_is_linear_in_the_vector(encoder, outputs):
    torch.manual_seed(0)
    model = ImageSurvival(SHAPES, outputs, image={"encoder": encoder, "project": 5, "activate": True}).eval()
    batch = {"regions": torch.rand(3, 3, 32, 32)}
    vector = model.vectors(batch)["image"]
    assert vector.shape == (3, 5)
    assert (vector >= 0).all()
    torch.testing.assert_close(model(batch), vector @ model.head.weight.T + model.head.bias)
    bounded = ImageSurvival(SHAPES, outputs, image={"encoder": encoder, "project": 5, "activate": True}, bounded=True)
    bounded.load_state_dict(model.state_dict())
    torch.testing.assert_close(bounded.eval()(batch), 6 * torch.sigmoid(model(batch)) - 3)


def test_every_trained_parameter_gets_a_gradient():
    torch.manual_seed(0)
    model = ImageSurvival(SHAPES, 1, image={"encoder": T2T})
    model({"regions": torch.rand(3, 3, 32, 32)}).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_it_starts_from_a_file(tmp_path):
    torch.manual_seed(0)
    released = t2t_encoder(32, **T2T)
    torch.save({"state_dict_ema": released.state_dict()}, tmp_path / "t2t.pth.tar")
    encoder = T2T | {"checkpoint": str(tmp_path / "t2t.pth.tar")}
    model = ImageSurvival(SHAPES, 1, image={"encoder": encoder})
    for name, value in model.image.encoder.state_dict().items():
        assert torch.equal(value, released.state_dict()[name])
    with pytest.raises(InputError, match=r"t2t\.pth\.tar: the tensors do not fit the model"):
        ImageSurvival(SHAPES, 1, image={"encoder": encoder | {"depth": 3}})


def test_tiles_are_pooled():
    model = ImageSurvival({"tiles": (6,)}, 1, image={"hidden": 4})
    assert model({"tiles": torch.rand(2, 5, 6), "tiles_count": torch.ones(2, 5)}).shape == (2, 1)
