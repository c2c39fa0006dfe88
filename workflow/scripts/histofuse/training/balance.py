"""Balanced training: the branch that learns faster is slowed down, step by step (Path-GPTOmic, after OGM-GE).

Each branch's part of the output is judged alone by a score s on the rows of the step. ρ^m = s^m / s^other, and

    k^m = 1 − tanh(α · max(ρ^m − 1, 0))

multiplies the branch's step; what belongs to no branch is untouched. Here the scores and the coefficients are made
and applied; `objective` says which score goes with a loss, and the loop only calls what `modulation` names.

The scores (`rule`) on Cox's risk sets R_i, for a branch's part m and π_i = exp m_i / Σ_{j∈R_i} exp m_j:

    softmax_sum   Σ_i π_i, the default: the chance that the one who died is the one who would, as OGM-GE's score is
                  the chance of the true class
    lift          Σ_i π_i · |R_i|: each event counts alike, however many are at risk
    log_mean      exp of the mean of log π_i
    literal_sum   Σ_i m_i / Σ_{j∈R_i} exp m_j, as Path-GPTOmic's Eq. 5 is printed
    literal_mean  the mean over i of the two branches' ratios of these terms

The first three do not change when a constant is added to a part, and leave out events that are alone at risk. The
literal ones do change, and are negative about as often as not near the start: both branches then keep their step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from histofuse.io import InputError

RULES = ("softmax_sum", "lift", "log_mean", "literal_sum", "literal_mean")
CLASS_RULES = ("softmax_sum", "log_mean")  # those that need no risk set
APPLICATIONS = ("learning_rate", "gradient", "none")


@torch.no_grad()
def risk_set_scores(rule: str, parts: Tensor, log_risk: Tensor, time: Tensor, event: Tensor) -> Tensor:
    """Scores [2] of two branches on the events of a batch; their ratio is not finite when no event counts.

    Args:
        parts: [2, batch]; log_risk: [2, batch], `losses.log_at_risk` of the parts; time, event: [batch].
    """
    at_risk = (time.unsqueeze(0) >= time.unsqueeze(1)).sum(1)
    if rule.startswith("literal"):
        event = event.bool()
        terms = torch.where(event, parts * torch.exp(-log_risk), 0)
        if rule == "literal_sum":
            return terms.sum(1)
        ratios = torch.where(event, terms[0] / terms[1], 0)
        ratio = ratios.sum() / event.sum()
        return torch.stack([ratio, torch.ones_like(ratio)])
    weight = at_risk if rule == "lift" else 1
    return likelihood_scores(rule, parts - log_risk, event.bool() & (at_risk > 1), weight)


@torch.no_grad()
def likelihood_scores(
    rule: str, log_likelihood: Tensor, counted: Tensor | None = None, weight: Tensor | int = 1
) -> Tensor:
    """Scores [2] from the log likelihood [2, batch] of what was seen under each branch alone.

    Args: counted: bool [batch], rows that are judged (by default all); weight: [batch], of a row in a sum.
    """
    counted = torch.ones_like(log_likelihood[0], dtype=torch.bool) if counted is None else counted
    if rule == "log_mean":
        return torch.exp(torch.where(counted, log_likelihood, 0).sum(1) / counted.sum())
    return torch.where(counted, log_likelihood.exp() * weight, 0).sum(1)


def ratios(scores: Tensor) -> Tensor:
    """ρ [2] from scores [2]: each over the other's."""
    return scores / scores.flip(0)


def coefficients(rho: Tensor, alpha: float = 1.0) -> Tensor:
    """k [2] in (0, 1]: 1 up to ρ = 1 and below it, and also where a ratio is negative."""
    return 1 - torch.tanh(alpha * (rho - 1).clamp(min=0))


class Balance:
    """The coefficients of a run, put to use before each step of the optimiser.

    Args:
        branches: {name: parameters} of the two branches, each a parameter group of its own that bears the name under
            "branch" (`loop.fit` makes them so).
        rule: of the scores, see above.
        apply: "learning_rate" of the step, which slows Adam as it slows SGD; "gradient" before the optimiser, as
            OGM-GE, most of which Adam's normaliser undoes; "none" to log the coefficients only.
        alpha: see above. ema: ρ is that of exponential averages of the scores, with this weight of the past.
        window: [first, end) epochs in which coefficients are applied (by default all).
        noise: whether a branch's gradients get normal noise of their own standard deviation, OGM-GE's "GE".
        weight_decay: decoupled from the gradient and at the unmodulated learning rate, so that a slowed branch is not
            held less; the optimiser itself must have none.
    Raises InputError when there are not two branches or an option is unknown.
    """

    def __init__(
        self,
        branches: Mapping[str, Sequence[nn.Parameter]],
        rule: str = "softmax_sum",
        apply: str = "learning_rate",
        alpha: float = 1.0,
        ema: float = 0.0,
        window: Sequence[int] | None = None,
        noise: bool = False,
        weight_decay: float = 0.0,
    ):
        if len(branches) != 2:
            named = f"{len(branches)}: {', '.join(branches)}" if branches else "none"
            raise InputError(
                f"training: modulation: two branches are needed, the model has {named}. Leave the key out, "
                "or take a model that adds up two branches (e.g. histofuse.models.path_gptomic:PathGPTOmic)"
            )
        for key, value, known in (("rule", rule, RULES), ("apply", apply, APPLICATIONS)):
            if value not in known:
                raise InputError(f"training: modulation: {key}: {value!r} is not one of {', '.join(known)}")
        self.branches = {name: list(parameters) for name, parameters in branches.items()}
        self.names = tuple(self.branches)
        self.apply, self.alpha, self.ema = apply, alpha, ema
        self.window, self.noise, self.weight_decay = window, noise, weight_decay
        self.average = torch.zeros(2, device=self.branches[self.names[0]][0].device)

    def start_epoch(self, epoch: int, optimiser: torch.optim.Optimizer) -> None:
        """Called once the groups have the epoch's learning rates."""
        self.optimiser = optimiser
        self.rates = [group["lr"] for group in optimiser.param_groups]
        within = self.window is None or self.window[0] <= epoch < self.window[1]
        self.active = self.apply != "none" and within
        self.steps: list[Tensor] = []

    @torch.no_grad()
    def before_step(self, scores: Tensor) -> None:
        """Decay the weights, and modulate by the step's scores [2]; gradients are there, clipped. No host sync."""
        rho, k = self._coefficients(scores)
        gradients = [self._gradients(name) for name in self.names]
        norms = [
            nn.utils.get_total_norm(of_branch) if of_branch else torch.zeros_like(rho[0]) for of_branch in gradients
        ]
        self.steps.append(torch.stack([rho, k, torch.stack(norms).to(k)]))
        for group, rate in zip(self.optimiser.param_groups, self.rates):
            if self.weight_decay:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        parameter *= 1 - rate * self.weight_decay
            if self.active and self.apply == "learning_rate" and group["branch"] in self.names:
                group["lr"] = rate * k[self.names.index(group["branch"])]
        for of_branch, coefficient in zip(gradients, k if self.active else ()):
            for gradient in of_branch:
                noise = gradient.std(correction=0) * torch.randn_like(gradient) if self.noise else 0
                if self.apply == "gradient":
                    gradient *= coefficient
                gradient += noise

    def end_epoch(self) -> dict[str, float | list[float]]:
        """What the epoch's steps were, by branch.

        `rho_`, `k_` and `gradient_`: means over steps of ρ, k and the norm of the branch's gradient (clipped, not yet
        modulated); `ahead_`: the share of steps with ρ > 1; `rho_steps_`, `k_steps_`: of each step.
        """
        for group, rate in zip(self.optimiser.param_groups, self.rates):
            group["lr"] = rate
        rho, k, norms = torch.stack(self.steps, dim=1).double().cpu()
        log = {}
        for i, name in enumerate(self.names):
            log |= {f"rho_{name}": rho[:, i].mean().item(), f"ahead_{name}": (rho[:, i] > 1).double().mean().item()}
            log |= {f"k_{name}": k[:, i].mean().item(), f"gradient_{name}": norms[:, i].mean().item()}
            log |= {f"rho_steps_{name}": rho[:, i].tolist(), f"k_steps_{name}": k[:, i].tolist()}
        return log

    def state(self) -> dict[str, Tensor]:
        """What a resumed run needs."""
        return {"average": self.average}

    def load(self, state: dict[str, Tensor]) -> None:
        self.average = state["average"].to(self.average.device)

    def _coefficients(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """ρ and k, both 1 on a step that says nothing. Averages begin at 0: their ratio needs no correction for it."""
        valid = torch.isfinite(ratios(scores)).all()
        average = self.ema * self.average + (1 - self.ema) * scores
        self.average = torch.where(valid, average, self.average)
        rho = torch.where(valid, ratios(self.average), torch.ones_like(scores))
        return rho, coefficients(rho, self.alpha)

    def _gradients(self, name: str) -> list[Tensor]:
        return [parameter.grad for parameter in self.branches[name] if parameter.grad is not None]
