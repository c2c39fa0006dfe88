"""A training step of disentangled learning's teacher and student against the plain form of each, on two cores.

The plain forms embed each place, run the MLP of the position bias for each pair of a place and a key, and write the
attention out: for consistency the teacher's is kept, of the whole batch; the student's distances of all tokens are
made at once. Both sides have the same weights, and every slide has as many distinct tiles as places, so that embedding
each once saves nothing. A step is forward and backward, of four slides; the plain form, whose large parts are each
slide's own, gets two of them, twice. Times are the processor's, of two threads.
"""

import time

import pytest
import torch
from torch.nn.functional import normalize, one_hot
from training_steps import saved_bytes, shortest
from unit.models.dense_ks_fusion import dense_attention

from histofuse.models.disentangled import SUBSPACES, DisentangledTeacher
from histofuse.models.disentangled_student import DisentangledStudent
from histofuse.models.magnifications import BAGS
from histofuse.models.output import Output

GENES = {"tumour": (59,), "microenvironment": (361,)}


def slides_of(batch, bag):
    generator = torch.Generator().manual_seed(0)
    slides = {name: torch.randn(batch, bag, 1024, generator=generator) for name in BAGS.values()}
    slides |= {f"{name}_place": torch.stack([torch.randperm(bag) for _ in range(batch)]) for name in BAGS.values()}
    return slides | {name: torch.randn(batch, *shape, generator=generator) for name, shape in GENES.items()}


def build(kind, **params):
    torch.manual_seed(0)
    shapes = dict.fromkeys(BAGS.values(), (1024,))
    return kind(shapes | GENES if kind is DisentangledTeacher else shapes, 4, **params).train()


def patches_of(reader, batch, name):
    place = batch[f"{BAGS[name]}_place"].unsqueeze(-1).expand(-1, -1, 1024)
    return torch.relu(reader.embed(torch.gather(batch[BAGS[name]], 1, place)))


def plain_teacher(model, batch):
    genes = {u: model.genes[u](batch[u]) for u in SUBSPACES}
    heads, maps = {}, {u: [] for u in SUBSPACES}
    for name, reader in model.readers.items():
        keys, read = reader.norm(patches_of(reader, batch, name)), []
        for u in SUBSPACES:
            query = genes[u].unsqueeze(1).repeat(1, keys.shape[1], 1)
            attended, _, weights = dense_attention(reader.attention[u], reader.norm(query), keys)
            read.append(query + attended)
            maps[u].append(weights.reshape(len(keys), -1) - 1 / weights.shape[-1])
        fused = reader.norm(reader.fuse(torch.cat(read, dim=2)))
        pooled = [reader.pool[u](fused, reader.norm(genes[u])) for u in SUBSPACES]
        heads[name] = Output(reader.decoder(torch.cat(pooled, dim=1)))
    loss = 0.0
    for pair in maps.values():
        one, other = (normalize(m @ m.T) for m in pair)
        loss = loss + (one - other).square().sum() / len(one)
    return Output(heads["20x"].total, heads=heads, losses={"consistency": loss})


def plain_student(model, batch):
    heads = {}
    for name, reader in model.readers.items():
        patches = patches_of(reader, batch, name)
        attended, _, _ = dense_attention(reader.attention, reader.norm(patches), reader.norm(patches))
        tokens = reader.aggregate.norm(patches + attended)
        with torch.no_grad():
            distance = torch.cdist(tokens, tokens) / tokens.shape[-1] ** 0.5
            density = torch.exp(-distance.topk(5, largest=False).values.square().mean(-1))
            denser = density.unsqueeze(1) > density.unsqueeze(2)
            furthest = distance.flatten(1).amax(1)[:, None, None]
            apart = torch.where(denser, distance, furthest).amin(2)
            centres = (density * apart).topk(2).indices
            near = torch.gather(distance, 1, centres.unsqueeze(-1).expand(-1, -1, distance.shape[2])).argmin(1)
        weights = torch.exp(reader.aggregate.importance(tokens)) * one_hot(near, 2)
        merged = torch.einsum("btk,btw->bkw", weights / weights.sum(1, keepdim=True), tokens)
        heads[name] = Output(reader.head(merged.flatten(1)))
    return Output(heads["20x"].total, heads=heads)


def loss_of(output):
    return sum(head.total.square().mean() for head in output.heads.values()) + sum(output.losses.values())


@pytest.mark.usefixtures("two_threads", "deterministic")
@pytest.mark.parametrize(
    ("kind", "plain"),
    [(DisentangledTeacher, plain_teacher), (DisentangledStudent, plain_student)],
    ids=["teacher", "student"],
)
def test_a_step_against_its_plain_form(kind, plain):
    small, few = build(kind, bag=144, dropout=0.0), slides_of(3, 144)
    ours, theirs = loss_of(small(few)), loss_of(plain(small, few))
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)
    parameters = [small.readers["10x"].embed.weight, *small.readers["20x"].attention.parameters()]
    for one, other in zip(torch.autograd.grad(ours, parameters), torch.autograd.grad(theirs, parameters)):
        assert (one - other).norm() <= 0.05 * other.norm() + 1e-6  # the table of the bias has slopes of its own

    model, many, half = build(kind), slides_of(4, 2500), slides_of(2, 2500)
    known = [*model.parameters(), *many.values(), *half.values()]
    kept = saved_bytes(lambda: model(many), *known) / 1e9
    kept_plain = 2 * saved_bytes(lambda: plain(model, half), *known) / 1e9
    steps = {"ours": lambda: loss_of(model(many)).backward(), "plain": lambda: loss_of(plain(model, half)).backward()}
    seconds = shortest(steps, 2, time.process_time)
    ratio = 2 * seconds["plain"] / seconds["ours"]
    print(f"\n{kind.__name__}, step of 4 slides: ours {seconds['ours']:.2f} s; ", end="")
    print(f"plain {2 * seconds['plain']:.1f} s: {ratio:.1f} ×")
    print(f"activations: {kept:.2f} GB against {kept_plain:.1f} GB, 1/{kept_plain / kept:.0f}")
    assert ratio >= 4
    assert kept <= kept_plain / 8
