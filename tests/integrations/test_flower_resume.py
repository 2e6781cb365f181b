"""A run resumed from state_dict and model is the run that was never stopped, bit for bit."""

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
    state["own"]["update"] = torch.zeros(3)
    strategy.load_state_dict(state)
    with pytest.raises(ValueError, match="the last update has 3 numbers"):
        run(strategy)


def test_a_selectors_state_is_part_of_it():
    select = SelectClients(FedAvg(**OFF), Random(), 3)
    run(select, rounds=2)
    assert select.state_dict()["own"]["round"] == 2
