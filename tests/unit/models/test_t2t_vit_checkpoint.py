"""Released T2T-ViT files: every wrapping gives the same weights, nothing is executed, bad files are named."""

import argparse
import contextlib
import datetime
import pickle
import tarfile
import zipfile

import numpy as np
import pytest
import torch

from histofuse.io import InputError
from histofuse.models.t2t_checkpoint import load_checkpoint, resize_positions
from histofuse.models.t2t_vit import T2TViT, grid_side

# All 188 released names, at small widths.
SMALL = {"image_px": 32, "num_classes": 10, "width": 12, "depth": 14, "heads": 6, "token_width": 8}


def small(seed, **changes):
    torch.manual_seed(seed)
    model = T2TViT(**(SMALL | changes)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


@pytest.fixture(scope="module")
def source():
    """A model whose weights, random features among them, no other model of these tests has."""
    model = small(1)
    for attention in (model.tokens_to_token.attention1, model.tokens_to_token.attention2):
        torch.nn.init.orthogonal_(attention.w, gain=2)
    return model


@pytest.fixture
def path(tmp_path):
    return tmp_path / "81.5_T2T_ViT_14.pth.tar"


def trainer_file(state, average):
    """What the published training writes, with its arguments, optimiser and metrics."""
    return {
        "epoch": 309,
        "arch": "t2t_vit_14",
        "state_dict": state,
        "optimizer": {"state": {0: {"step": 7, "exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1e-5}]},
        "args": argparse.Namespace(lr=5e-4, mean=(0.485, 0.456), smoothing=np.float32(0.1), resume=None),
        "version": 2,
        "state_dict_ema": average,
        "metric": np.float64(81.5),
        "seen": np.int64(3),
        "best": np.bool_(True),
    }


def other(state):
    return {key: value + 1 for key, value in state.items()}


def prefixed(state):
    return {f"module.{key}": value for key, value in state.items()}


WRAPPINGS = {
    "bare": (lambda state: state, None),
    "bare with prefix": (prefixed, None),
    "state_dict": (lambda state: {"state_dict": state}, "state_dict"),
    "state_dict with prefix": (lambda state: {"state_dict": prefixed(state), "epoch": 3}, "state_dict"),
    "average": (lambda state: {"state_dict_ema": state}, "state_dict_ema"),
    "average is preferred": (lambda state: trainer_file(prefixed(other(state)), state), "state_dict_ema"),
    "average with prefix": (lambda state: trainer_file(other(state), prefixed(state)), "state_dict_ema"),
}


def assert_holds(model, state):
    loaded = model.state_dict()
    assert loaded.keys() == state.keys()
    assert all(torch.equal(value, state[key]) for key, value in loaded.items())


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])
@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_every_wrapping_gives_the_same_weights(path, source, wrapping, zipped):
    wrap, entry = WRAPPINGS[wrapping]
    torch.save(wrap(source.state_dict()), path, _use_new_zipfile_serialization=zipped)
    model = small(2)
    assert load_checkpoint(model, path, head=True) == entry
    assert_holds(model, source.state_dict())
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(model(images), source(images))


def test_transformer_variant(path):
    source = small(1, token_module="transformer")
    torch.save(source.state_dict(), path)
    model = small(2, token_module="transformer")
    load_checkpoint(model, path, head=True)
    assert_holds(model, source.state_dict())


def test_scalars_as_older_numpy_named_them(path, source, tmp_path):
    """numpy 1 wrote `numpy.core.multiarray.scalar`; numpy 2 writes `numpy._core.multiarray.scalar`."""
    new = tmp_path / "new.pth"
    torch.save(trainer_file(other(source.state_dict()), source.state_dict()), new)
    with zipfile.ZipFile(new) as archive, zipfile.ZipFile(path, "w") as older:
        for name in archive.namelist():
            older.writestr(name, archive.read(name).replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    model = small(2)
    load_checkpoint(model, path, head=True)
    assert_holds(model, source.state_dict())


def test_half_precision_is_read_as_float32(path, source):
    torch.save({key: value.half() for key, value in source.state_dict().items()}, path)
    model = small(2)
    load_checkpoint(model, path)
    assert {value.dtype for value in model.state_dict().values()} == {torch.float32}
    torch.testing.assert_close(model.cls_token, source.cls_token, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("classes", [0, 3, 10])
def test_the_head_is_left_aside(path, source, classes):
    torch.save(source.state_dict(), path)
    model = small(2, num_classes=classes)
    before = {key: value.clone() for key, value in model.state_dict().items() if key.startswith("head.")}
    load_checkpoint(model, path)
    assert_holds(model, {key: v for key, v in source.state_dict().items() if not key.startswith("head.")} | before)


def test_a_head_of_other_classes_is_refused_where_it_is_asked_for(path, source):
    torch.save(source.state_dict(), path)
    with pytest.raises(InputError, match=r"2 of another shape: head\.weight \(10, 12\) for \(3, 12\), head\.bias"):
        load_checkpoint(small(2, num_classes=3), path, head=True)
    with pytest.raises(InputError, match=r"2 unknown: head\.weight, head\.bias"):
        load_checkpoint(small(2, num_classes=0), path, head=True)


@pytest.mark.parametrize("image_px", [16, 50, 384])
def test_position_table_of_another_size(path, source, image_px):
    torch.save(source.state_dict(), path)
    model = small(2, image_px=image_px)
    load_checkpoint(model, path, head=True)
    wanted = resize_positions(source.pos_embed, 1 + grid_side(image_px) ** 2)
    assert_holds(model, source.state_dict() | {"pos_embed": wanted})
    assert model(torch.randn(1, 3, image_px, image_px)).isfinite().all()


def cubic(distance):
    """The cubic convolution kernel at a = −3/4."""
    a, d = -0.75, abs(distance)
    if d <= 1:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1
    return a * (d**3 - 5 * d**2 + 8 * d - 4) if d < 2 else 0.0


def test_table_from_224_to_384_px_by_the_cubic_kernel():
    """14² to 24² positions: cell centres are aligned, border cells repeat outwards, the class token keeps its row."""
    resize = torch.zeros(24, 14)
    for new in range(24):
        place = (new + 0.5) * 14 / 24 - 0.5  # centre of the new cell, in old ones
        for old in range(-2, 16):
            resize[new, min(max(old, 0), 13)] += cubic(place - old)
    table = T2TViT(width=12, depth=0).pos_embed
    resized = resize_positions(table, 577)
    assert torch.equal(resized[:, :1], table[:, :1])
    grid = torch.einsum("ai,bj,ijw->abw", resize, resize, table[0, 1:].view(14, 14, 12))
    torch.testing.assert_close(resized[0, 1:], grid.flatten(0, 1), atol=1e-5, rtol=0)
    assert resize_positions(table, 197) is table


@pytest.mark.parametrize(("rows", "shape"), [(4, "(1, 4, 12)"), (12, "(1, 12, 12)")])
def test_position_table_of_no_square_grid(path, source, rows, shape):
    torch.save(source.state_dict() | {"pos_embed": torch.zeros(1, rows, 12)}, path)
    with pytest.raises(InputError, match="1 of another shape: pos_embed") as refused:
        load_checkpoint(small(2), path)
    assert shape in str(refused.value)


def drop(key):
    return lambda state: {name: value for name, value in state.items() if name != key}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop("cls_token"), "1 missing: cls_token"),
        (drop("pos_embed"), "1 missing: pos_embed"),
        (drop("head.bias"), r"1 missing: head\.bias"),
        (drop("blocks.13.mlp.fc2.bias"), r"1 missing: blocks\.13\.mlp\.fc2\.bias"),
        (drop("tokens_to_token.attention2.w"), r"1 missing: tokens_to_token\.attention2\.w"),
        (drop("tokens_to_token.attention1.w"), "attention1.w is missing, .* the transformer, .* token_module"),
        (lambda state: state | {"blocks.14.norm1.bias": torch.zeros(12)}, r"1 unknown: blocks\.14\.norm1\.bias"),
        (lambda state: state | {"norm.bias": torch.zeros(13)}, r"1 of another shape: norm\.bias \(13,\) for \(12,\)"),
        (lambda state: state | {"pos_embed": torch.zeros(5)}, "1 of another shape: pos_embed"),
        (lambda state: state | {"norm.bias": torch.full((12,), float("nan"))}, r"1 not finite: norm\.bias"),
        (lambda state: state | {"norm.bias": torch.ones(12, dtype=torch.int64)}, r"norm\.bias holds torch\.int64"),
        (lambda state: state | {"module.norm.bias": torch.ones(12)}, r"norm\.bias is there with and without"),
        (lambda state: state | {"epoch": 3}, "'epoch' is a int, not a tensor"),
        (lambda state: {"state_dict": state, "state_dict_ema": None}, "state_dict_ema: holds a NoneType"),
        (lambda state: {"model": state}, "'model' is a OrderedDict, not a tensor"),
        (lambda state: {0: state["norm.bias"]}, "0 is a Tensor, not a tensor with a name"),
        (lambda state: {}, "holds an empty dict"),
        (lambda state: list(state.values()), "holds a list, not a state dict"),
        (lambda state: state["norm.bias"], "holds a Tensor, not a state dict"),
        (lambda state: {"conv1.weight": torch.zeros(64, 3, 7, 7)}, r"188 missing: .*; 1 unknown: conv1\.weight"),
    ],
)
def test_content_that_does_not_fit(path, source, change, message):
    torch.save(change(source.state_dict()), path)
    model = small(2)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(InputError, match=message) as refused:
        load_checkpoint(model, path, head=True)
    assert str(refused.value).startswith(str(path))
    assert_holds(model, before)


def test_the_other_token_module(path, source):
    torch.save(source.state_dict(), path)
    with pytest.raises(InputError, match=r"attention1\.w is there, .* the performer, .* set token_module to performer"):
        load_checkpoint(small(2, token_module="transformer"), path)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("share", [0, 1e-5, 1e-4, 0.01, 0.3, 0.9, 0.9999])
def test_truncated_file(path, source, zipped, share):
    torch.save(trainer_file(source.state_dict(), source.state_dict()), path, _use_new_zipfile_serialization=zipped)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputError, match=r"cannot be read as a checkpoint .*fetch it again") as refused:
        load_checkpoint(small(2), path)
    assert str(refused.value).startswith(str(path))


def as_text(path):
    path.write_text("<html>Not Found</html>\n")


def as_tar(path):
    (path.parent / "weights").write_bytes(b"0" * 600)
    with tarfile.open(path, "w") as archive:
        archive.add(path.parent / "weights", arcname="weights")


def as_zip(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("weights.txt", "none")


@pytest.mark.parametrize("write", [as_text, as_tar, as_zip])
def test_other_formats(path, write):
    write(path)
    with pytest.raises(InputError, match="cannot be read as a checkpoint"):
        load_checkpoint(small(2), path)


def test_no_file(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere.pth"):
        with pytest.raises(InputError, match=f"{path}: there is no such file"):
            load_checkpoint(small(2), path)


class Payload:
    """Unpickled, it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("where", ["beside", "in the arguments", "bare pickle"])
def test_pickled_objects_are_not_executed(path, source, tmp_path, where):
    trace = tmp_path / "executed"
    content = trainer_file(source.state_dict(), source.state_dict())
    if where == "in the arguments":
        content["args"].extra = Payload(trace)
    else:
        content["extra"] = Payload(trace)
    if where == "bare pickle":
        path.write_bytes(pickle.dumps(Payload(trace), protocol=2))
    else:
        torch.save(content, path)
    with pytest.raises(
        InputError, match=r"holds a pickled (io|_io)\.open beside the weights.* convert it once"
    ) as refused:
        load_checkpoint(small(2), path)
    assert not trace.exists()
    assert "allow_pickle" not in str(refused.value)
    with contextlib.suppress(RuntimeError):  # the payload is a real one
        torch.load(path, weights_only=False)
    assert trace.exists()


def test_the_advice_to_convert_works(path, source, tmp_path, monkeypatch):
    content = trainer_file(other(source.state_dict()), source.state_dict())
    torch.save(content | {"started": datetime.date(2021, 3, 1)}, path)
    with pytest.raises(InputError, match=r"holds a pickled datetime\.date beside the weights") as refused:
        load_checkpoint(small(2), path)
    command = str(refused.value).partition('python -c "')[2].removesuffix('"')
    monkeypatch.chdir(tmp_path)
    exec(command, {})
    model = small(2)
    load_checkpoint(model, "weights.pth", head=True)
    assert_holds(model, source.state_dict())
