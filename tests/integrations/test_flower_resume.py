"""A run resumed from state_dict and model is the run that was never stopped, bit for bit."""

import copy
import io
from typing import Any

import pytest
import torch
from flwr.app import ArrayRecord
from flwr.serverapp.strategy import FedAdagrad, FedAdam, FedAvg, FedAvgM, FedYogi

from hdet.federated.selection import HeteroSelect, HeteroSelectV2, PowerOfChoice, Random
from hdet.integrations.flower import Decay, FedExP, FedHyper, SelectClients

from .flower_clients import RATE, bits, client_app, config, grid, model, run

OFF: dict[str, Any] = {"fraction_evaluate": 0.0}
STRATEGIES = {
    "g+cl over FedAvg": lambda: FedHyper(FedAvg(**OFF), beta=RATE),
    "g+sl+cl over FedAdam": lambda: FedHyper(FedAdam(**OFF), mode="g+sl+cl", beta=RATE),
    "g over momentum": lambda: FedHyper(
        FedAvgM(server_momentum=0.9, **OFF), mode="g", beta=RATE
    ),
    "cl over Yogi": lambda: FedHyper(FedYogi(**OFF), mode="cl", beta=RATE),
    "decay over Adagrad": lambda: Decay(FedAdagrad(**OFF), RATE, 0.9),
    "FedExP": lambda: FedExP(FedAvg(**OFF)),
    "selecting inside": lambda: FedHyper(
        SelectClients(FedAvg(**OFF), HeteroSelect(), 3), beta=RATE
    ),
    "selecting outside": lambda: SelectClients(
        FedHyper(FedAdam(**OFF), beta=RATE), HeteroSelectV2(), 3
    ),
    "power of choice": lambda: SelectClients(FedAvg(**OFF), PowerOfChoice(4), 2),
}


def through_a_file(state: dict) -> dict:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_resumed_run_is_the_run_that_was_never_stopped(name):
    def nodes(salt: int):
        return grid(client_app(labels=True), salt=salt)

    whole = run(STRATEGIES[name](), nodes(0), rounds=3)
    first = STRATEGIES[name]()
    half = run(first, nodes(0), rounds=2)
    state = through_a_file(first.state_dict())
    weights = through_a_file(half.arrays.to_torch_state_dict())
    second = STRATEGIES[name]()
    second.load_state_dict(state)
    # A new process has new node ids.
    rest = run(second, nodes(1), rounds=1, initial=ArrayRecord(weights))
    assert bits(rest.arrays) == bits(whole.arrays)


def test_a_second_start_goes_on_counting():
    strategy, nodes = STRATEGIES["selecting outside"](), grid()
    first = run(strategy, nodes, rounds=2)
    run(strategy, nodes, rounds=1, initial=first.arrays)
    assert config(nodes.of_type("train")[-1])["server-round"] == 3


def test_a_state_can_be_saved_during_the_run():
    """Flower calls evaluate_fn after each round, with the new model."""
    strategy, states = STRATEGIES["g+cl over FedAvg"](), {}

    def save(server_round: int, arrays: ArrayRecord) -> None:
        states[server_round] = (strategy.state_dict(), arrays.to_torch_state_dict())

    whole = strategy.start(grid(), ArrayRecord(model().state_dict()), 4, evaluate_fn=save)
    second = STRATEGIES["g+cl over FedAvg"]()
    second.load_state_dict(states[3][0])
    rest = run(second, rounds=1, initial=ArrayRecord(states[3][1]))
    assert bits(rest.arrays) == bits(whole.arrays)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({}, r"FedHyper.load_state_dict\(state=...\).*wrapped in the same order"),
        (FedHyper(FedAvg(), mode="g").state_dict(), "mode='g\\+cl'|mode='sl'"),
    ],
)
def test_the_state_of_another_strategy_is_refused(state, message):
    with pytest.raises(ValueError, match=message):
        FedHyper(FedAvg(), mode="sl").load_state_dict(state)


def test_the_update_of_another_model_is_refused():
    strategy = STRATEGIES["cl over Yogi"]()
    state = strategy.state_dict()
    state["own"]["previous"] = torch.zeros(3)
    strategy.load_state_dict(state)
    with pytest.raises(ValueError, match="the last update has 3 numbers"):
        run(strategy)


def test_what_a_strategy_remembers_of_another_model_is_refused_at_the_start():
    strategy = STRATEGIES["g over momentum"]()
    run(strategy, rounds=1)
    state = strategy.state_dict()
    del state["model"]  # as of a time when it was not part of the state
    second = STRATEGIES["g over momentum"]()
    second.load_state_dict(state)
    nodes = grid(client_app(norm=True))
    with pytest.raises(ValueError, match="FedAvgM remembers `momentum_vector` of a model with"):
        run(second, nodes, initial=ArrayRecord(model(norm=True).state_dict()))
    assert nodes.calls == 0


def test_a_state_is_cloned_when_it_is_loaded():
    first, second = (STRATEGIES["g over momentum"]() for _ in range(2))
    half = run(first, rounds=2)
    state = copy.deepcopy(first.state_dict())
    second.load_state_dict(state)
    for tensor in state["strategy"]["momentum_vector"]:
        tensor.fill_(7.0)
    state["own"]["previous"].fill_(7.0)
    expected = run(first, rounds=1, initial=half.arrays)
    assert bits(run(second, rounds=1, initial=half.arrays).arrays) == bits(expected.arrays)


DAMAGED = {
    "round": [None, "2", -1, 0.5, True, 10**400],
    "own": [None, [], {1: 2}],
    "own.global": [None, "x"],
    "own.previous": [None, 3, torch.zeros(2, 3), torch.full((37,), torch.nan), torch.zeros(3)],
    "own.hypergradient": [None, "h", torch.nan],
    "own.beta": ["fast", -1.0, torch.nan],
    "strategy": [None, {}, {"momentum_vector": None, "m_t": None}],
    "strategy.momentum_vector": [
        [],
        {"0": torch.zeros(1)},
        [torch.zeros(1)] * 4,
        [1.0, 2.0, 3.0, 4.0],
    ],
    "model": [3, {"0.weight": "wide"}],
    "usual": [[], 3, [{"form": None, "length": -1.0}, {"form": None, "length": None}]],
    "more": [1],
}


@pytest.mark.parametrize("path", DAMAGED)
def test_a_damaged_state_is_refused_whole(path):
    strategy = STRATEGIES["g over momentum"]()
    half = run(strategy, rounds=2)
    good = strategy.state_dict()
    late = run(strategy, rounds=1, initial=half.arrays)
    for value in DAMAGED[path]:
        bad = copy.deepcopy(good)
        *inside, last = path.split(".")
        owner = bad
        for key in inside:
            owner = owner[key]
        owner[last] = value
        if path == "own.beta":  # a rate given to the constructor goes before the state's
            with pytest.raises(ValueError, match=r"`FedHyper.load_state_dict.*own.beta"):
                FedHyper(FedAvgM(server_momentum=0.9, **OFF), mode="g").load_state_dict(bad)
            continue
        with pytest.raises(ValueError, match="FedHyper.load_state_dict"):
            strategy.load_state_dict(bad)
    # Nothing of it was taken: the fourth round is that of a run that saw no such state.
    clean = STRATEGIES["g over momentum"]()
    run(clean, rounds=2)
    assert bits(run(clean, rounds=1, initial=half.arrays).arrays) == bits(late.arrays)
    expected = run(clean, rounds=1, initial=late.arrays)
    assert bits(run(strategy, rounds=1, initial=late.arrays).arrays) == bits(expected.arrays)


def test_a_damaged_part_of_a_nested_state_leaves_the_rest_alone():
    strategy = STRATEGIES["selecting inside"]()
    run(strategy, rounds=2)
    before = strategy.state_dict()
    bad = copy.deepcopy(before)
    bad["own"]["local"]["rate"] = RATE
    bad["strategy"]["strategy"] = {"m_t": None}
    with pytest.raises(
        ValueError, match=r"entry `strategy.strategy` = \['m_t'\], which must be"
    ):
        strategy.load_state_dict(bad)
    after = strategy.state_dict()
    assert after["own"]["local"]["rate"] == before["own"]["local"]["rate"]


def test_a_rate_of_the_train_config_is_part_of_the_state():
    first = FedHyper(FedAvg(**OFF), mode="sl")
    half = run(first, rounds=2)
    second = FedHyper(FedAvg(**OFF), mode="sl")
    second.load_state_dict(through_a_file(first.state_dict()))
    assert second.beta == first.beta
    whole = run(first, rounds=1, initial=half.arrays)
    assert bits(run(second, rounds=1, initial=half.arrays).arrays) == bits(whole.arrays)


def test_a_state_of_before_these_entries_loads():
    first, second = (STRATEGIES["g+sl+cl over FedAdam"]() for _ in range(2))
    half = run(first, rounds=2)
    state = first.state_dict()
    del state["model"], state["usual"], state["own"]["beta"]
    second.load_state_dict(state)
    whole = run(first, rounds=1, initial=half.arrays)
    assert bits(run(second, rounds=1, initial=half.arrays).arrays) == bits(whole.arrays)


@pytest.mark.parametrize("name", ["g+sl+cl over FedAdam", "g over momentum", "cl over Yogi"])
def test_a_state_with_an_update_in_each_rule_loads(name):
    """As of a time when G, SL and CL kept a copy each."""
    first, second = (STRATEGIES[name]() for _ in range(2))
    half = run(first, rounds=2)
    state = first.state_dict()
    own = state["own"]
    update, value = own.pop("previous"), own.pop("hypergradient")
    for rule in ("global", "local"):
        if own[rule] is not None:
            own[rule] |= {"hypergradient": value, "previous": update.clone()}
    own["update"] = update if "cl" in name else None
    second.load_state_dict(state)
    whole = run(first, rounds=1, initial=half.arrays)
    assert bits(run(second, rounds=1, initial=half.arrays).arrays) == bits(whole.arrays)


def test_a_selectors_state_is_part_of_it():
    select = SelectClients(FedAvg(**OFF), Random(), 3)
    run(select, rounds=2)
    assert select.state_dict()["own"]["round"] == 2
