"""Student of disentangled multimodal learning: slides alone, taught by the teacher that also saw genes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from histofuse.io import InputError
from histofuse.models.consistency import FORMS, check_form, consistency
from histofuse.models.deformable import DeformableAttention, Points
from histofuse.models.distillation import LOGITS, MATCHINGS, divergence, feature_distance
from histofuse.models.magnifications import BAGS, bag_widths, check_rule, combine, on_map, places_of, side_of
from histofuse.models.output import Output
from histofuse.models.token_aggregation import DensityPeaks, LearnedSeeds

AGGREGATIONS = ("density_peaks", "learned_seeds")


class DisentangledStudent(nn.Module):
    """At each magnification: deformable self-attention, a slide's tokens aggregated to two, a linear layer.

    Args:
        shapes: {"tiles": (width,), "tiles_10x": (width,)}; tables beside them are not read.
        outputs: the number of intervals or of classes; 1 for a Cox log hazard (then `combine: mean`).
        bag: places of the square maps: the `bag` of both inputs of tiles.
        combine: which prediction the two magnifications make, see `magnifications.combine`.
        aggregation: "density_peaks", whose tokens stand by score, or "learned_seeds", a query for the tumour and one
            for the microenvironment. tokens: how many; distilling features takes two.
        teacher: name of the input with the teacher's vectors (`logits_20x`, `features_20x`, …), read in training
            alone; None trains on the task alone.
        temperature, logits: of the divergence from the teacher's outputs, see `distillation.divergence`; "hazards"
            is right for discrete survival.
        matching: of tokens to the teacher's features, see `distillation.feature_distance`; None is "free" for density
            peaks and "ordered" for learned seeds.
        logits_weight, features_weight: of the two losses; 0 leaves one out. (The published code gives a term that
            stands alone the weight 1.)
        consistency, consistency_weight: between the attention of both magnifications, see `consistency`; None is none.
        width, heads, dropout, align_corners: see `DeformableAttention`.
    Raises InputError when an input is missing or an option is unknown.
    """

    def __init__(
        self,
        shapes: dict[str, tuple[int, ...]],
        outputs: int,
        bag: int = 2500,
        combine: str = "confident",
        aggregation: str = "density_peaks",
        tokens: int = 2,
        teacher: str | None = None,
        temperature: float = 2.0,
        logits: str = "softmax",
        matching: str | None = None,
        logits_weight: float = 0.01,
        features_weight: float = 0.01,
        consistency: str | None = None,
        consistency_weight: float | None = None,
        width: int = 128,
        heads: int = 8,
        dropout: float = 0.1,
        align_corners: bool = True,
    ):
        super().__init__()
        check_rule(combine, outputs)
        check_form(consistency)
        matching = matching or ("free" if aggregation == "density_peaks" else "ordered")
        for key, value, known in (
            ("aggregation", aggregation, AGGREGATIONS),
            ("logits", logits, LOGITS),
            ("matching", matching, MATCHINGS),
        ):
            if value not in known:
                raise InputError(f"params: {key}: {value!r} is not one of {', '.join(known)}")
        self.rule, self.bag, self.heads, self.aggregation = combine, bag, heads, aggregation
        self.teacher, self.temperature, self.logits, self.matching = teacher, temperature, logits, matching
        self.logits_weight, self.features_weight = logits_weight, features_weight
        self.consistency = consistency
        self.consistency_weight = FORMS.get(consistency) if consistency_weight is None else consistency_weight
        attention = {"width": width, "heads": heads, "dropout": dropout, "align_corners": align_corners}
        attention["side"] = side_of(bag)
        aggregate = DensityPeaks if aggregation == "density_peaks" else LearnedSeeds
        self.readers = nn.ModuleDict(
            {
                name: SlideReader(tiles, outputs, aggregate(width, tokens), tokens * width, attention)
                for name, tiles in bag_widths(shapes).items()
            }
        )

    def forward(self, batch: dict[str, Tensor]) -> Output:
        """{bag: [batch, tile, width], bag_place: [batch, place]} → `Output` whose heads are the magnifications.

        In training with a teacher also {"teacher.logits_20x": [batch, outputs], "teacher.features_20x":
        [batch, 2 · width], …}, for the losses "distillation_logits" and "distillation_features". Raises InputError
        when they are not there.
        """
        maps = {
            name: reader.read(batch[BAGS[name]], places_of(batch, BAGS[name], self.bag))
            for name, reader in self.readers.items()
        }
        tokens = {name: reader.aggregated(*maps[name])[0] for name, reader in self.readers.items()}
        heads = {name: reader.head(tokens[name].flatten(1)) for name, reader in self.readers.items()}
        losses = {}
        if self.training:
            losses = self._distillation(batch, heads, tokens) | self._consistency(maps)
        total = combine(list(heads.values()), self.rule)
        return Output(total, heads={name: Output(logits) for name, logits in heads.items()}, losses=losses)

    def tile_scores(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Weight of each place of the map at 20× in each token, [batch, place], rows summing to 1.

        "attention_token_1", … of density peaks; "attention_tumour" and "attention_microenvironment" of learned seeds.
        """
        reader = self.readers["20x"]
        maps = reader.read(batch[BAGS["20x"]], places_of(batch, BAGS["20x"], self.bag))
        weights = reader.aggregated(*maps)[1]
        names = [f"token_{k + 1}" for k in range(weights.shape[1])]
        if self.aggregation == "learned_seeds" and len(names) == 2:
            names = ["tumour", "microenvironment"]
        return {f"attention_{name}": weights[:, k] for k, name in enumerate(names)}

    def sampling_points(self, batch: dict[str, Tensor]) -> dict[str, Points]:
        """{"slide": the points of the map at 20× that its attention reads}."""
        reader = self.readers["20x"]
        normed, _ = reader.read(batch[BAGS["20x"]], places_of(batch, BAGS["20x"], self.bag))
        return {"slide": reader.attention.sampled(normed, normed)}

    def _distillation(self, batch: dict[str, Tensor], heads: dict, tokens: dict) -> dict[str, Tensor]:
        if self.teacher is None:
            return {}
        losses = {}
        if self.logits_weight:
            of_each = [
                divergence(logits, self._taught(batch, f"logits_{name}"), self.temperature, self.logits)
                for name, logits in heads.items()
            ]
            losses["distillation_logits"] = self.logits_weight * sum(of_each)
        if self.features_weight:
            of_each = [
                feature_distance(tokens[name], self._taught(batch, f"features_{name}"), self.matching)
                for name in self.readers
            ]
            losses["distillation_features"] = self.features_weight * sum(of_each)
        return losses

    def _taught(self, batch: dict[str, Tensor], vector: str) -> Tensor:
        if (name := f"{self.teacher}.{vector}") not in batch:
            raise InputError(
                f"inputs: {name} is missing: name `{vector}` under `vectors` of the input {self.teacher}, or leave "
                "`params: teacher` out to train without one"
            )
        return batch[name]

    def _consistency(self, maps: dict[str, tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
        if not (self.consistency and self.consistency_weight):
            return {}
        attention = (self.readers[name].maps_of(maps[name][0]) for name in ("10x", "20x"))
        return {"consistency": self.consistency_weight * consistency(*attention, self.heads, self.consistency)}


class SlideReader(nn.Module):
    """One magnification. attention: keywords of `DeformableAttention`. features: of all aggregated tokens together."""

    def __init__(self, tiles: int, outputs: int, aggregate: nn.Module, features: int, attention: dict):
        super().__init__()
        width = attention["width"]
        self.embed, self.norm = nn.Linear(tiles, width), nn.LayerNorm(width)
        self.attention = DeformableAttention(**attention)
        self.aggregate = aggregate
        self.head = nn.Linear(features, outputs)

    def read(self, tiles: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
        """The map of tiles, normalised, and as it is: [batch, place, width] each."""
        embedded = torch.relu(self.embed(tiles))
        return on_map(self.norm(embedded), place), on_map(embedded, place)

    def aggregated(self, normed: Tensor, embedded: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens [batch, token, width] and the weights [batch, token, place] that they are made with."""
        return self.aggregate(embedded + self.attention(normed, normed)[0])

    def maps_of(self, normed: Tensor):
        """heads → their attention [batch, head, place, key]; made when called."""
        return lambda heads: self.attention.attention(normed, normed, heads)
