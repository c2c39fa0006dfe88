"""Which modulation an entry's options make, and what it asks of objective and optimiser."""

import inspect
from pathlib import Path

import pytest
import yaml
from branch_examples import Two

from histofuse.io import InputError
from histofuse.training.balance import Balance
from histofuse.training.coordination import Coordination
from histofuse.training.modulation import KEYS, make_modulation, optimiser_options, rule_of

SCHEMA = Path(__file__).parents[3] / "workflow" / "schemas" / "config.schema.yaml"


class Joined(Two):
    def decoders(self):
        return {"": self.genes.weight}


def make(options, optimiser="adam", model=None):
    model = model or Joined(features=6)
    return make_modulation(options, model, model.branches(), optimiser, 0.1)


def test_options_choose_the_class_and_reach_it():
    assert make(None) is None
    balance = make({"rule": "lift", "alpha": 0.5})
    assert isinstance(balance, Balance)
    assert (balance.alpha, balance.weight_decay) == (0.5, 0.1)
    assert isinstance(make({"kind": "balance"}), Balance)
    coordination = make({"kind": "coordination", "confidence": "likelihood", "granularity": "row", "rows": 64})
    assert isinstance(coordination, Coordination)
    assert coordination.granularity == "row"
    assert coordination.state()["risk"].shape == (1, 2, 64)


def test_the_rule_for_the_objective():
    assert rule_of(None) is None
    assert rule_of({}) == "softmax_sum"
    assert rule_of({"rule": "lift"}) == "lift"
    assert rule_of({"kind": "coordination"}) == "by_task"
    assert rule_of({"kind": "coordination", "confidence": "likelihood"}) == "likelihood"


def test_only_balancing_takes_the_weight_decay_from_the_optimiser():
    assert optimiser_options({}) == {"weight_decay": 0.0}
    assert optimiser_options(None) == optimiser_options({"kind": "coordination"}) == {}
    assert isinstance(make({"kind": "coordination"}, "adagrad"), Coordination)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "projection"}, "modulation: kind: 'projection' is not one of balance, coordination"),
        ({"kind": "coordination", "operation": "turn"}, "modulation: operation: 'turn' is not one of projection, refl"),
        ({"kind": "coordination", "granularity": "class"}, "modulation: granularity: 'class' is not one of block, row"),
    ],
)
def test_unknown_options_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        make(options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "balance", "operation": "projection"}, "operation: is no key of kind balance, which has rule, apply"),
        ({"confidence": "likelihood"}, "confidence: is no key of kind balance, which has rule, apply, alpha, ema"),
        ({"kind": "coordination", "rule": "lift"}, "rule: is no key of kind coordination, which has operation, gran"),
    ],
)
def test_keys_of_the_other_kind_are_refused(options, message):
    for asks in (make, rule_of, optimiser_options):
        with pytest.raises(InputError, match=f"training: modulation: {message}"):
            asks(options)


def test_the_keys_of_each_kind_are_those_of_the_class_and_of_the_schema():
    of_class = {
        "balance": set(inspect.signature(Balance).parameters) - {"branches", "weight_decay"},
        "coordination": set(inspect.signature(Coordination).parameters) - {"decoders"} | {"confidence"},
    }
    assert {kind: set(keys) for kind, keys in KEYS.items()} == of_class
    schema = yaml.safe_load(SCHEMA.read_text())["$defs"]["model"]["properties"]["training"]["properties"]["modulation"]
    assert set(schema["properties"]) == {"kind"}.union(*KEYS.values())
    assert set(schema["properties"]["kind"]["enum"]) == set(KEYS)


def test_an_unknown_confidence_is_refused():
    with pytest.raises(
        InputError, match="modulation: confidence: 'auc' is not one of by_task, concordance, likelihood"
    ):
        rule_of({"kind": "coordination", "confidence": "auc"})


def test_adagrad_cannot_be_balanced():
    with pytest.raises(InputError, match="is made for the optimisers sgd, adam and adamw, not for adagrad"):
        make({}, "adagrad")


def test_coordination_needs_decoders_with_two_halves():
    with pytest.raises(InputError, match=r"kind: coordination: Two has no decoders\(\), the weights that join"):
        make({"kind": "coordination"}, model=Two())
    with pytest.raises(
        InputError, match=r"the decoder '' has the shape \[1, 5\]; it needs columns for two equally wide"
    ):
        make({"kind": "coordination"}, model=Joined(features=5))
