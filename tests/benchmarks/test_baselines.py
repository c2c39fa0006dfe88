"""A training step of the baselines on slides of 2,500 places of 1,024 numbers, against plain forms.

A plain form has the same parameters and gives the same output: copies of tiles are tiles of their own, all projections
are made of all tokens, softmaxes and pseudo-inverses are computed as they are written, products from the left.
A step is forward, backward and AdamW on 8 slides, without dropout so that both forms can be compared. On a CPU, seconds
are processor time of one core.
"""

import time

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from training_steps import rate_on_gpu, shortest, stepper

from histofuse.models.add import Add
from histofuse.models.attmil import AttMIL
from histofuse.models.bilinear import Bilinear
from histofuse.models.cmta import CMTA
from histofuse.models.concat import Concat
from histofuse.models.disentangled import DisentangledTeacher
from histofuse.models.disentangled_student import DisentangledStudent
from histofuse.models.ks_fusion import KSFusion
from histofuse.models.mcat import MCAT
from histofuse.models.output import Output, total_of
from histofuse.models.snn import SNN
from histofuse.models.transmil import TransMIL

BATCH, PLACES, ROUNDS = 8, 2500, 2
TILES, GENES, SPACES = {"tiles": (1024,)}, {"genes": (431,)}, {"tumour": (59,), "microenvironment": (361,)}
SLICES = {"slices": [100, 100, 100, 131]}
BASELINES = {
    "AttMIL": lambda **dropout: AttMIL(TILES, 4, **dropout),
    "TransMIL": lambda **dropout: TransMIL(TILES, 4, **dropout),
    "Concat": lambda **dropout: Concat(TILES | GENES, 4, **dropout),
    "MCAT": lambda **dropout: MCAT(TILES | GENES, 4, **SLICES, **dropout),
    "CMTA": lambda **dropout: CMTA(TILES | GENES, 4, **SLICES, **dropout),
}
OTHERS = {
    "SNN": lambda: SNN(GENES, 4, (64, 48, 32, 128), 0.1, final_relu=True),
    "Add": lambda: Add(TILES | GENES, 4),
    "Bilinear": lambda: Bilinear(TILES | GENES, 4),
    "KS-Fusion": lambda: KSFusion(TILES | SPACES, 4),
    "Teacher of two magnifications": lambda: DisentangledTeacher(TILES | {"tiles_10x": (1024,)} | SPACES, 4),
    "Student of two magnifications": lambda: DisentangledStudent(TILES | {"tiles_10x": (1024,)}, 4),
}
# Of how many times at least a plain step must take longer, for slides without copies and with each tile twice.
FLOORS = {
    ("AttMIL", 1): 0.9,
    ("AttMIL", 2): 1.5,
    ("TransMIL", 1): 2.5,
    ("TransMIL", 2): 2.5,
    ("Concat", 1): 0.9,
    ("Concat", 2): 1.5,
    ("MCAT", 1): 1.2,
    ("MCAT", 2): 2.0,
    ("CMTA", 1): 2.0,
    ("CMTA", 2): 2.0,
}


class Plain(nn.Module):
    """A model's plain form, on its parameters."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, batch):
        tiles = torch.stack([tiles[place] for tiles, place in zip(batch["tiles"], batch["tiles_place"])])
        return globals()[f"plain_{type(self.model).__name__.lower()}"](self.model, tiles, batch)


def pooled(pooling, tiles):
    return (torch.softmax(pooling.score(torch.tanh(pooling.hidden(tiles))), dim=1) * tiles).sum(1)


def plain_attmil(model, tiles, batch):
    return model.head(pooled(model.pooling, tiles))


def plain_concat(model, tiles, batch):
    return model.head(torch.cat([model.path(pooled(model.pooling, tiles)), model.genes(batch["genes"])], dim=1))


def plain_transmil(model, tiles, batch):
    return model.head(plain_encoder(model.encoder, model.tiles(tiles))[:, 0])


def plain_mcat(model, tiles, batch):
    genes = model.groups(batch)
    seen = attended(model.coattention, genes, model.tiles(tiles))
    return model.head(model.joint(torch.cat([model.image(seen), model.omics(genes)], dim=1)))


def plain_cmta(model, tiles, batch):
    image = plain_encoder(model.image_encoder, model.tiles(tiles))
    genes = plain_encoder(model.gene_encoder, model.groups(batch))
    image_hat = plain_encoder(model.image_decoder, attended(model.image_asks, image[:, 1:], genes[:, 1:]))[:, 0]
    genes_hat = plain_encoder(model.gene_decoder, attended(model.genes_ask, genes[:, 1:], image[:, 1:]))[:, 0]
    image, genes = image[:, 0], genes[:, 0]
    total = model.head(model.joint(torch.cat([(image + image_hat) / 2, (genes + genes_hat) / 2], dim=1)))
    apart = (image.detach() - image_hat).abs().mean() + (genes.detach() - genes_hat).abs().mean()
    return Output(total, losses={"alignment": apart / 2})


def attended(layer, asking, asked):
    return nn.MultiheadAttention.forward(layer, asking, asked, asked)[0]


def plain_encoder(encoder, tokens):
    tokens = torch.cat([encoder.start.expand(len(tokens), 1, -1), tokens], dim=1)
    tokens = tokens + plain_nystrom(encoder.layers[0].attention, encoder.layers[0].norm(tokens))
    if hasattr(encoder.position, "convolutions"):
        side = round((tokens.shape[1] - 1) ** 0.5)
        squares = tokens[:, 1:].transpose(1, 2).reshape(len(tokens), -1, side, side)
        squares = squares + sum(convolution(squares) for convolution in encoder.position.convolutions)
        tokens = torch.cat([tokens[:, :1], squares.flatten(2).transpose(1, 2)], dim=1)
    return encoder.norm(tokens + plain_nystrom(encoder.layers[1].attention, encoder.layers[1].norm(tokens)))


def plain_nystrom(layer, tokens):
    n, length = tokens.shape[1], -(-tokens.shape[1] // layer.landmarks)
    q, k, v = (x.unflatten(2, (layer.heads, -1)).transpose(1, 2) for x in layer.qkv(tokens).chunk(3, dim=2))
    stops = list(range(n, 0, -length))[::-1]
    q_marks, k_marks = (torch.stack([x[:, :, max(s - length, 0) : s].mean(2) for s in stops], 2) for x in (q, k))
    scale = q.shape[-1] ** -0.5
    left, middle, right = (
        torch.softmax(a @ b.mT * scale, -1) for a, b in ((q, k_marks), (q_marks, k_marks), (q_marks, k))
    )
    one = torch.eye(middle.shape[-1], device=middle.device)
    z = middle.mT / (middle.sum(-2).amax(-1) * middle.sum(-1).amax(-1))[..., None, None]
    for _ in range(layer.iterations):
        az = middle @ z
        z = z @ (13 * one - az @ (15 * one - az @ (7 * one - az))) / 4
    near = nn.functional.conv2d(v, layer.residual.weight.unsqueeze(3), padding=(16, 0), groups=layer.heads)
    return layer.out(((left @ z) @ (right @ v) + near).transpose(1, 2).flatten(2))


def slides(copies, device="cpu"):
    """8 slides whose distinct tiles stand `copies` times in the map, one run after the other."""
    generator = torch.Generator().manual_seed(0)
    n, batch = PLACES // copies, {}
    for name in ("tiles", "tiles_10x"):
        batch[name] = torch.randn(BATCH, n, 1024, generator=generator)
        batch[f"{name}_count"] = torch.full((BATCH, n), float(copies))
        batch[f"{name}_place"] = (torch.arange(PLACES) % n).expand(BATCH, -1)
    for name, shape in (GENES | SPACES).items():
        batch[name] = torch.randn(BATCH, *shape, generator=generator)
    return {name: values.to(device) for name, values in batch.items()}


def loss_of(model, batch):
    output = model(batch)
    labels = torch.arange(BATCH, device=batch["tiles"].device) % 4
    loss = cross_entropy(total_of(output), labels)
    return loss + sum(output.losses.values()) if isinstance(output, Output) else loss


def build(name, **dropout):
    torch.manual_seed(0)
    return (BASELINES | OTHERS)[name](**dropout)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("copies", [1, 2])
@pytest.mark.parametrize("name", BASELINES)
def test_step_on_one_core(name, copies):
    batch = slides(copies)
    still = {"dropout": 0.0} | ({"token_dropout": 0.0} if name == "CMTA" else {})
    model, plain = build(name, **still), Plain(build(name, **still))
    with torch.no_grad():
        torch.testing.assert_close(total_of(model(batch)), total_of(plain(batch)), rtol=1e-3, atol=1e-4)
    ways = {"ours": stepper(model, batch, loss_of), "plain": stepper(plain, batch, loss_of)}
    ours, reference = shortest(ways, ROUNDS, time.thread_time).values()
    print(f"\n{name}, {PLACES // copies:,} distinct tiles: {ours:.3f} s, plain {reference:.3f} s", end="")
    print(f", {reference / ours:.2f} ×", end="")
    assert reference / ours >= FLOORS[name, copies]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "bfloat16"])
def test_steps_on_a_gpu(autocast):
    """All models in one table, batches on the GPU already; of the plain forms those that exist."""
    batch = slides(1, "cuda")
    print("\n| model | steps/s | peak memory, GB | epoch of 2,387 slides, s | plain form, steps/s |")
    print("|---|---|---|---|---|")
    for name in BASELINES | OTHERS:
        forms = [build(name), *([Plain(build(name))] if name in BASELINES else [])]
        found = [rate_on_gpu(stepper(form.cuda(), batch, loss_of, autocast)) for form in forms]
        (rate, memory), plain = found[0], f"{found[1][0]:.1f}" if found[1:] else ""
        print(f"| {name} | {rate:.1f} | {memory:.2f} | {2387 / BATCH / rate:.1f} | {plain} |")
        assert rate > 0.8 * (found[1][0] if found[1:] else 0)
