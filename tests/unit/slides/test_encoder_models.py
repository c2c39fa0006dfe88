"""Networks behind encoders: every preset, cuts and poolings by hand, and what is refused."""

import dataclasses
import re
from pathlib import Path

import huggingface_hub
import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from histofuse.io import InputError
from histofuse.models.t2t_vit import T2TViT
from histofuse.models.torchvision_shim import ensure_torchvision
from histofuse.slides import encoder_models, encoder_presets
from histofuse.slides.encoder_models import POOLINGS, build, folded
from histofuse.slides.encoder_presets import Preset, find_preset, presets
from histofuse.slides.encoders import load_encoder

ensure_torchvision()
import timm  # noqa: E402

# Millions of parameters as published (model cards and papers), of the part that is kept.
MILLIONS = {"uni": 303.4, "uni2-h": 681.4, "virchow2": 631.2, "h-optimus-0": 1134.8, "prov-gigapath": 1135.0}
SMALL = Preset("small", "test_vit")  # 6 blocks of 64 channels, patches of 16 px, a class token
IMAGES = torch.rand(2, 3, 160, 160, generator=torch.Generator().manual_seed(0))


def tokens_of(model):
    with torch.no_grad():
        return model.eval().forward_features(IMAGES)


def seeded(function, *arguments, **options):
    torch.manual_seed(0)
    return function(*arguments, **options).eval()


@pytest.mark.parametrize("name", [name for name, preset in presets().items() if preset.library == "timm"])
def test_presets_are_what_their_cards_say(name):
    """On the meta device: shapes without weights, for some have more than a thousand million of them."""
    preset = find_preset(name)
    with torch.device("meta"):
        module = build(preset).eval()
        with torch.no_grad():
            features = module(torch.empty(2, 3, preset.input_px or 224, preset.input_px or 224))
    assert features.shape == (2, preset.dim)
    if name in MILLIONS:
        assert sum(p.numel() for p in module.parameters()) / 1e6 == pytest.approx(MILLIONS[name], abs=0.1)


def test_layers_of_presets():
    with torch.device("meta"):
        uni, uni2, virchow, optimus, gigapath = (
            build(find_preset(name)).model for name in ("uni", "uni2-h", "virchow2", "h-optimus-0", "prov-gigapath")
        )
    assert [model.num_prefix_tokens for model in (uni, uni2, virchow, optimus, gigapath)] == [1, 9, 5, 5, 1]
    assert [len(model.blocks) for model in (uni, uni2, virchow, optimus, gigapath)] == [24, 24, 32, 40, 40]
    assert [model.patch_embed.patch_size[0] for model in (uni, uni2, virchow, optimus, gigapath)] == [
        16,
        14,
        14,
        14,
        16,
    ]
    for model in (uni2, virchow, optimus, gigapath):
        mlp = model.blocks[0].mlp
        assert isinstance(mlp.act, nn.SiLU)  # SwiGLU
        assert mlp.fc1.out_features == 2 * mlp.fc2.in_features
    for model in (uni, uni2, virchow, optimus, gigapath):
        assert hasattr(model.blocks[0].ls1, "gamma")  # init_values
        assert isinstance(model.head, nn.Identity)


def test_every_row_of_the_table_is_whole():
    for name, preset in presets().items():
        assert preset.name == name
        assert preset.source.startswith("https://")
        assert preset.licence
        assert preset.dim > 0
        assert preset.pooling in POOLINGS or not preset.library
        assert preset.revision in {"", "main"} or re.fullmatch("[0-9a-f]{40}", preset.revision)
        assert (preset.mean is None) == (preset.std is None)
        if preset.hub and preset.library:
            assert preset.file
            assert preset.hub in preset.source


def test_a_preset_brings_its_own_transform(settings, monkeypatch):
    small = dataclasses.replace(
        find_preset("h-optimus-0"), model="test_vit", kwargs={"img_size": 224}, dim=64, pooling="token"
    )
    monkeypatch.setattr("histofuse.slides.encoders.find_preset", lambda name: small)
    encoder = load_encoder(settings | {"tile_px": 256})
    assert encoder.input_px == 224
    np.testing.assert_allclose(encoder.mean.flatten(), [0.707223, 0.578729, 0.703617], rtol=1e-6)
    np.testing.assert_allclose(encoder.std.flatten(), [0.211883, 0.230117, 0.177517], rtol=1e-6)
    assert encoder.encode(np.zeros((1, 256, 256, 3), np.uint8)).shape == (1, 64)
    monkeypatch.setattr("histofuse.slides.encoders.find_preset", lambda name: dataclasses.replace(small, dim=65))
    with pytest.raises(InputError, match="gives 64 numbers, not 65"):
        load_encoder(settings | {"tile_px": 256})


def test_a_preset_that_cannot_be_loaded_names_the_other_road(settings):
    with pytest.raises(InputError, match=r"'conch' cannot be loaded here.*TRIDENT.*`from`"):
        load_encoder(settings | {"encoder": "conch"})


def test_poolings_of_tokens():
    tokens = tokens_of(seeded(timm.create_model, "test_vit", num_classes=0, reg_tokens=4))
    preset = dataclasses.replace(SMALL, kwargs={"reg_tokens": 4})
    assert tokens.shape == (2, 1 + 4 + 100, 64)
    expected = {
        "token": tokens[:, 0],
        "mean": tokens[:, 5:].mean(1),
        "token_mean": torch.cat([tokens[:, 0], tokens[:, 5:].mean(1)], 1),
    }
    for pooling, features in expected.items():
        with torch.no_grad():
            torch.testing.assert_close(seeded(build, preset, pooling=pooling)(IMAGES), features)


def test_pooling_of_the_model_itself():
    whole = seeded(timm.create_model, "test_vit", num_classes=0)
    with torch.no_grad():
        torch.testing.assert_close(seeded(build, SMALL)(IMAGES), whole(IMAGES))


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext", "swin_tiny_patch4_window7_224"])
def test_maps_are_averaged_over_their_positions(name):
    """Channels stand first or, in Swin, last."""
    side = 224 if "224" in name else 160
    with torch.device("meta"):
        module = build(Preset(name, name), pooling="mean").eval()
        with torch.no_grad():
            features = module(torch.empty(2, 3, side, side))
        assert features.shape == (2, module.model.num_features)


def test_a_transformer_cut_after_a_block():
    whole = seeded(timm.create_model, "test_vit")
    with torch.no_grad():
        (expected,) = whole.get_intermediate_layers(IMAGES, n=[2], return_prefix_tokens=True)
        cut = seeded(build, SMALL, stage=2, pooling="token_mean")
        torch.testing.assert_close(cut(IMAGES), torch.cat([expected[1][:, 0], expected[0].mean(1)], 1))
        torch.testing.assert_close(seeded(build, SMALL, stage=2)(IMAGES), expected[0].mean(1))
    assert len(cut.model.blocks) == 3


@pytest.mark.parametrize("stage", range(5))
def test_a_network_of_convolutions_cut_after_a_stage(stage):
    maps = seeded(timm.create_model, "test_resnet", features_only=True, out_indices=(stage,))
    with torch.no_grad():
        expected = maps(IMAGES)[0].mean((2, 3))
        found = seeded(build, Preset("r", "test_resnet"), stage=stage)(IMAGES)
    torch.testing.assert_close(found, expected)


def test_cuts_and_poolings_that_are_not_possible_are_told_what_is():
    with pytest.raises(InputError, match=r"'test_resnet' has no stage 5; it has 0 \(.*\), 1 \(layer1\).*4 \(layer4\)"):
        build(Preset("test_resnet", "test_resnet"), stage=5)
    with pytest.raises(InputError, match="no stage -1"):
        build(SMALL, stage=-1)
    with pytest.raises(InputError, match=r"cannot be pooled by 'token'; possible here: model \(.*\), mean \("):
        build(Preset("test_resnet", "test_resnet"), pooling="token")
    with pytest.raises(InputError, match=r"cannot be pooled by 'model'; possible here: mean .*, token .*, token_mean"):
        build(SMALL, stage=2, pooling="model")
    with pytest.raises(InputError, match="'max'"):
        build(SMALL, pooling="max")
    with pytest.raises(InputError, match="'t2t-vit-14' cannot be cut"):
        build(find_preset("t2t-vit-14"), stage=3)


def test_cut_weights_are_loaded_from_the_whole_models_file(settings, tmp_path):
    whole = seeded(timm.create_model, "test_vit")
    torch.save(whole.state_dict(), tmp_path / "whole.pth")
    chosen = {"encoder": "test_vit", "stage": 2, "pooling": "token", "weights": str(tmp_path / "whole.pth")}
    encoder = load_encoder(settings | chosen)
    tile = np.random.default_rng(0).integers(0, 256, (1, 160, 160, 3), dtype=np.uint8)
    images = torch.from_numpy(tile).permute(0, 3, 1, 2) / 255
    images = (images - encoder.mean.cpu()) / encoder.std.cpu()
    with torch.no_grad():
        ((_, prefix),) = whole.get_intermediate_layers(images, n=[2], return_prefix_tokens=True)
    np.testing.assert_allclose(encoder.encode(tile), prefix[:, 0], rtol=1e-3, atol=1e-4)


def test_t2t_vit(settings, tmp_path):
    torch.manual_seed(1)
    published = T2TViT().eval()
    torch.save({"state_dict_ema": published.state_dict()}, tmp_path / "t2t.pth.tar")
    encoder = load_encoder(
        settings | {"encoder": "t2t-vit-14", "weights": str(tmp_path / "t2t.pth.tar"), "tile_px": 224}
    )
    tile = np.random.default_rng(0).integers(0, 256, (1, 224, 224, 3), dtype=np.uint8)
    images = torch.from_numpy(tile).permute(0, 3, 1, 2) / 255
    images = (images - encoder.mean.cpu()) / encoder.std.cpu()
    published.head = nn.Identity()
    with torch.no_grad():
        np.testing.assert_allclose(encoder.encode(tile), published(images), rtol=1e-3, atol=1e-4)
    assert encoder.dim == 384
    with pytest.raises(InputError, match=r"download .*T2T_ViT_14\.pth\.tar from https://"):
        load_encoder(settings | {"encoder": "t2t-vit-14", "weights": "hub"})


class Refusal(Exception):
    def __init__(self, status):
        super().__init__(f"{status} Client Error")
        self.response = type("Response", (), {"status_code": status})


@pytest.mark.parametrize("status", [401, 403])
def test_gated_weights_are_explained(settings, monkeypatch, status):
    asked = []

    def refuse(repository, file, revision):
        asked.append((repository, file, revision))
        raise Refusal(status)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    small = dataclasses.replace(find_preset("uni"), model="test_vit", kwargs={}, dim=64, input_px=160)
    monkeypatch.setattr("histofuse.slides.encoders.find_preset", lambda name: small)
    with pytest.raises(InputError) as error:
        load_encoder(settings | {"encoder": "uni", "weights": "hub"})
    for part in (
        "https://huggingface.co/MahmoodLab/UNI",
        "CC-BY-NC-ND-4.0",
        "HF_TOKEN",
        "pytorch_model.bin",
        "`weights`",
    ):
        assert part in str(error.value)
    assert asked == [("MahmoodLab/UNI", "pytorch_model.bin", "main")]


def test_a_hub_that_does_not_answer(settings, monkeypatch):
    def fail(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    small = dataclasses.replace(find_preset("uni"), model="test_vit", kwargs={}, dim=64, input_px=160)
    monkeypatch.setattr("histofuse.slides.encoders.find_preset", lambda name: small)
    with pytest.raises(InputError, match=r"'uni': its weights could not be fetched .*no route to host.*`weights`"):
        load_encoder(settings | {"weights": "hub"})
    monkeypatch.undo()
    monkeypatch.setattr(timm, "create_model", fail_if_pretrained(timm.create_model))
    with pytest.raises(InputError, match=r"'test_vit\.r160_in1k': its weights could not be fetched"):
        load_encoder(settings | {"encoder": "test_vit.r160_in1k", "weights": "hub"})


def fail_if_pretrained(create_model):
    def create(*arguments, pretrained=False, **options):
        if pretrained:
            raise OSError("no route to host")
        return create_model(*arguments, **options)

    return create


def test_weights_from_the_hub_are_compared_with_the_network(settings, monkeypatch, tmp_path):
    model = seeded(timm.create_model, "test_vit", num_classes=0)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *_, **__: str(tmp_path / "pytorch_model.bin"))
    small = dataclasses.replace(find_preset("uni"), model="test_vit", kwargs={}, dim=64, input_px=160)
    monkeypatch.setattr("histofuse.slides.encoders.find_preset", lambda name: small)
    hub = load_encoder(settings | {"weights": "hub"})
    assert hub.digest == load_encoder(settings | {"weights": str(tmp_path / "pytorch_model.bin")}).digest
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"pytorch_model\.bin: the weights do not fit the encoder"):
        load_encoder(settings | {"weights": "hub"})


@pytest.mark.parametrize("mapped", [True, False], ids=["of today", "of before torch 1.6"])
def test_a_file_of_weights_takes_no_memory_where_it_can_be_mapped(settings, monkeypatch, tmp_path, mapped):
    """Beside the network, of which the largest presets take 4.5 GB."""
    model, asked, load = seeded(timm.create_model, "test_vit", num_classes=0), [], torch.load
    torch.save(model.state_dict(), tmp_path / "w.pth", _use_new_zipfile_serialization=mapped)
    monkeypatch.setattr(torch, "load", lambda *args, **options: asked.append(options["mmap"]) or load(*args, **options))
    encoder = load_encoder(settings | {"encoder": "test_vit", "weights": str(tmp_path / "w.pth")})
    assert asked == [mapped]
    assert torch.equal(encoder.module.model.cls_token, model.cls_token)


def test_parameters_of_presets_are_those_of_the_networks():
    """Jobs ask for memory by them."""
    table = pd.read_csv(Path(encoder_presets.__file__).with_suffix(".tsv"), sep="\t", index_col="name")
    for name, preset in presets().items():
        if preset.library:
            with torch.device("meta"):
                found = sum(p.numel() for p in build(preset).parameters()) / 1e6
            assert table.loc[name, "parameters"] == pytest.approx(found, abs=0.06), name


def test_normalisations_are_folded():
    module = seeded(build, Preset("r", "resnet18"))
    changed = folded(module, 160)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in changed.modules())
    with torch.no_grad():
        torch.testing.assert_close(changed(IMAGES), module(IMAGES), rtol=1e-4, atol=1e-4)


def test_a_network_without_normalisations_to_fold_is_not_copied():
    module = seeded(build, SMALL)
    assert folded(module, 160) is module


def test_folding_is_dropped_where_it_would_change_the_function():
    class NormFirst(nn.Module):
        """The children stand in the order in which folding expects them, but are applied the other way round."""

        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3)
            self.norm = nn.BatchNorm2d(3)
            self.norm.running_mean += 5

        def forward(self, x):
            return self.conv(self.norm(x))

    module = NormFirst().eval()
    assert encoder_models.folded(module, 16) is module
