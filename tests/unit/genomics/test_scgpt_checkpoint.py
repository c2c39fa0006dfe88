"""Checkpoint folders in the official layout: read strictly, whichever way they were written, and nothing executed."""

import contextlib
import copy
import json
import pickle

import pytest
import torch
from scgpt_examples import ARGS, LAYOUTS, make_checkpoint

from histofuse.genomics.scgpt.checkpoint import load_checkpoint
from histofuse.genomics.scgpt.shim import transformer_model
from histofuse.io import InputError


@pytest.fixture
def folder(tmp_path):
    return make_checkpoint(tmp_path / "checkpoint")


def change_weights(folder, change):
    state = torch.load(folder / "best_model.pt", weights_only=True)
    torch.save(change(state), folder / "best_model.pt")


def change_args(folder, **changes):
    args = {key: value for key, value in (ARGS | changes).items() if value is not None}
    (folder / "args.json").write_text(json.dumps(args))


def test_the_model_is_the_packages_with_the_weights_of_the_file(folder):
    checkpoint = load_checkpoint(folder)
    assert type(checkpoint.model) is transformer_model()
    assert not checkpoint.model.training
    assert not checkpoint.model.use_fast_transformer
    assert not any(parameter.requires_grad for parameter in checkpoint.model.parameters())
    stored = torch.load(folder / "best_model.pt", weights_only=True)
    loaded = checkpoint.model.state_dict()
    assert {key for key in stored if "decoder" not in key} == set(loaded)
    assert all(torch.equal(value, stored[key]) for key, value in loaded.items())
    assert len(checkpoint.vocabulary) == 303
    settings = checkpoint.settings
    assert (settings.width, settings.heads, settings.hidden, settings.layers) == (32, 4, 48, 3)
    assert (settings.pad_token, settings.pad_value) == ("<pad>", -2)
    assert checkpoint.device == torch.device("cpu")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_give_the_same_weights(tmp_path, folder, layout):
    reference = load_checkpoint(folder).model.state_dict()
    loaded = load_checkpoint(make_checkpoint(tmp_path / layout, layout)).model.state_dict()
    assert loaded.keys() == reference.keys()
    assert all(torch.equal(value, reference[key]) for key, value in loaded.items())


def test_half_precision_is_read_as_float32(folder):
    change_weights(folder, lambda state: {key: value.half() for key, value in state.items()})
    assert {value.dtype for value in load_checkpoint(folder).model.state_dict().values()} == {torch.float32}


def test_random_numbers_are_not_drawn(folder):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    load_checkpoint(folder)
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.parametrize("name", ["args.json", "vocab.json", "best_model.pt"])
def test_digest_is_of_the_content_of_all_files(tmp_path, folder, name):
    digest = load_checkpoint(folder).digest
    again = make_checkpoint(tmp_path / "elsewhere")
    assert load_checkpoint(again).digest == digest
    if name == "args.json":
        change_args(again, dropout=0.5)
    elif name == "vocab.json":
        (again / name).write_text((again / name).read_text() + "\n")
    else:
        change_weights(again, lambda state: state | {"value_encoder.norm.bias": torch.ones(32)})
    assert load_checkpoint(again).digest != digest


@pytest.mark.parametrize(
    "key",
    [
        "encoder.enc_norm.bias",
        "encoder.embedding.weight",
        "value_encoder.linear1.weight",
        "transformer_encoder.layers.1.self_attn.in_proj_bias",
        "transformer_encoder.layers.2.norm2.weight",
    ],
)
def test_missing_tensor(folder, key):
    change_weights(folder, lambda state: {name: state[name] for name in state if name != key})
    with pytest.raises(InputError, match=f"best_model.pt: .*1 missing: {key}"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    "key", ["surplus", "dsbn.bns.0.weight", "bn.weight", "transformer_encoder.layers.3.norm1.bias", "encoder.bias"]
)
def test_unknown_tensor(folder, key):
    change_weights(folder, lambda state: state | {key: torch.zeros(32)})
    with pytest.raises(InputError, match=f"best_model.pt: .*1 unknown: {key}"):
        load_checkpoint(folder)


def test_heads_of_training_are_left_aside(folder):
    before = load_checkpoint(folder).model.state_dict()
    heads = (
        "decoder.zero_logit.0.bias",
        "mvc_decoder.x",
        "grad_reverse_discriminator.out_layer.bias",
        "flag_encoder.w",
    )
    change_weights(folder, lambda state: state | {key: torch.zeros(2) for key in heads})
    loaded = load_checkpoint(folder).model.state_dict()
    assert loaded.keys() == before.keys()
    change_weights(folder, lambda state: {key: value for key, value in state.items() if "decoder" not in key})
    load_checkpoint(folder)


def test_tensor_of_another_shape(folder):
    change_weights(folder, lambda state: state | {"value_encoder.linear1.weight": torch.zeros(31, 1)})
    with pytest.raises(InputError, match=r"1 of another shape: value_encoder.linear1.weight \(31, 1\) for \(32, 1\)"):
        load_checkpoint(folder)


def test_weights_that_are_not_finite(folder):
    change_weights(folder, lambda state: state | {"encoder.enc_norm.bias": torch.full((32,), float("nan"))})
    with pytest.raises(InputError, match=r"1 not finite: encoder\.enc_norm.bias"):
        load_checkpoint(folder)


def test_weights_that_are_whole_numbers(folder):
    change_weights(folder, lambda state: state | {"encoder.enc_norm.bias": torch.ones(32, dtype=torch.int64)})
    with pytest.raises(InputError, match=r"encoder\.enc_norm\.bias holds torch\.int64"):
        load_checkpoint(folder)


def test_one_tensor_under_two_names(folder):
    key = "transformer_encoder.layers.0.self_attn.{}bias"
    change_weights(folder, lambda state: state | {key.format("Wqkv."): state[key.format("in_proj_")]})
    with pytest.raises(InputError, match=r"layers\.0\.self_attn\.Wqkv\.bias is there under two of its names"):
        load_checkpoint(folder)


@pytest.mark.parametrize("tokens", [299, 301])
def test_vocabulary_that_disagrees_with_the_weights(folder, tokens):
    (folder / "vocab.json").write_text(json.dumps({f"G{i}": i for i in range(tokens)}))
    with pytest.raises(InputError, match=rf"vocab\.json: {tokens + 3} tokens .* has 303 rows"):
        load_checkpoint(folder)


@pytest.mark.parametrize("name", ["args.json", "vocab.json", "best_model.pt"])
def test_missing_file(folder, name):
    (folder / name).unlink()
    with pytest.raises(InputError, match=f"checkpoint: no scGPT checkpoint, {name} missing"):
        load_checkpoint(folder)


def test_missing_folder(tmp_path):
    with pytest.raises(InputError, match=r"args\.json and vocab\.json and best_model\.pt missing"):
        load_checkpoint(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"nheads": None}, "nheads missing"),
        ({"pad_value": None, "d_hid": None}, "d_hid, pad_value missing"),
        ({"nheads": 5}, "embsize 32 cannot be divided among nheads 5"),
        ({"nlayers": 0}, "nlayers is 0, which must be a whole number above 0"),
        ({"embsize": "32"}, "embsize is '32'"),
        ({"pad_value": "-2"}, "pad_value is '-2', which must be a number"),
        ({"pad_token": 7}, "pad_token is 7"),
        ({"pad_token": "<mask>"}, "pad_token '<mask>' is not in vocab.json"),
        ({"nlayers": 4}, "missing: transformer_encoder.layers.3"),
        ({"nlayers": 2}, "unknown: transformer_encoder.layers.2"),
        ({"embsize": 64}, "of another shape: encoder.embedding.weight"),
    ],
)
def test_settings_that_are_wrong(folder, changes, says):
    change_args(folder, **changes)
    with pytest.raises(InputError, match=says) as error:
        load_checkpoint(folder)
    assert str(folder) in str(error.value)


@pytest.mark.parametrize("content", ["", "{", "[]"])
def test_settings_that_are_no_json_object(folder, content):
    (folder / "args.json").write_text(content)
    with pytest.raises(InputError, match=r"args\.json"):
        load_checkpoint(folder)


class Payload:
    """Unpickled, it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("where", ["entry", "whole", "bare pickle", "tensor subclass"])
def test_pickled_objects_are_not_executed(tmp_path, folder, where):
    trace = tmp_path / "executed"
    path = folder / "best_model.pt"
    state = torch.load(path, weights_only=True)
    if where == "entry":
        torch.save(state | {"decoder.extra": Payload(trace)}, path)
    elif where == "whole":
        torch.save(Payload(trace), path)
    elif where == "bare pickle":
        path.write_bytes(pickle.dumps(Payload(trace), protocol=2))
    else:
        state["encoder.enc_norm.bias"] = copy.copy(state["encoder.enc_norm.bias"])
        state["encoder.enc_norm.bias"].hidden = Payload(trace)
        torch.save(state, path)
    with pytest.raises(
        InputError, match=r"best_model\.pt: cannot be read as weights alone \(it holds (a )?pickled"
    ) as refused:
        load_checkpoint(folder)
    assert "weights_only" not in str(refused.value), "torch's advice to open it all the same"
    assert not trace.exists()
    with contextlib.suppress(RuntimeError):  # the payload is a real one
        torch.load(path, weights_only=False)
    assert trace.exists()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ([torch.zeros(2)], "holds a list, not a state dict"),
        ({"epoch": 3}, "'epoch' is a int, not a tensor"),
        ({"state_dict": {"encoder.enc_norm.bias": torch.zeros(32)}}, "'state_dict' is a dict, not a tensor"),
    ],
)
def test_weights_that_are_no_state_dict(folder, content, says):
    torch.save(content, folder / "best_model.pt")
    with pytest.raises(InputError, match=says):
        load_checkpoint(folder)


def test_damaged_weights(folder):
    path = folder / "best_model.pt"
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(InputError, match=r"best_model\.pt: cannot be read as weights alone"):
        load_checkpoint(folder)
