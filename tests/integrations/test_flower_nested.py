"""Nested strategies: the model is read and the replies are checked once a round."""

import pytest
import torch
from flwr.app import ArrayRecord
from flwr.serverapp.strategy import DifferentialPrivacyServerSideFixedClipping, FedAvg

from hdet.federated import vectors
from hdet.federated.selection import Random
from hdet.integrations.flower import FedExP, FedHyper, SelectClients, wrapper
from hdet.integrations.flower.scaled_step import ScaledStep

from .flower_clients import RATE, bits, client_app, flat, grid, metrics, model, run


def fedavg() -> FedAvg:
    return FedAvg(fraction_evaluate=1.0)


NESTED = {
    "one": lambda: FedHyper(fedavg(), beta=RATE),
    "three": lambda: FedHyper(FedExP(SelectClients(fedavg(), Random(), 5)), beta=RATE),
    "Flower's between": lambda: FedHyper(
        DifferentialPrivacyServerSideFixedClipping(
            SelectClients(fedavg(), Random(), 5), 0.0, 0.1, 5
        ),
        beta=RATE,
    ),
}


@pytest.mark.parametrize("name", NESTED)
def test_however_deep_they_are_nested_replies_are_checked_once(name, monkeypatch):
    calls: list[str] = []

    def counted(name: str) -> None:
        real = getattr(wrapper, name)

        def call(*given):
            calls.append(name)
            return real(*given)

        monkeypatch.setattr(wrapper, name, call)

    strategy = NESTED[name]()
    counted("sift")
    counted("GlobalModel")
    run(strategy, grid(), rounds=2)
    # Replies to training and to evaluation.
    assert calls.count("sift") == 2 * 2
    assert calls.count("GlobalModel") == 2


def test_a_wrapper_that_was_inside_another_checks_again_on_its_own(warned):
    def diverges(partition, at, answer):
        if partition == 3:
            state = model().state_dict()
            state["0.bias"] += torch.nan
            answer.content["arrays"] = ArrayRecord(state)
        return answer

    inner = FedExP(fedavg())
    run(FedHyper(inner, beta=RATE), grid(), rounds=1)
    result = run(inner, grid(client_app(tamper=diverges)), rounds=1)
    assert flat(result.arrays).isfinite().all()
    assert "sent '0.bias' with numbers that are not finite" in warned()


def test_arithmetic_in_blocks_is_that_of_whole_entries(monkeypatch):
    def trained() -> tuple[dict[str, bytes], list]:
        seen = []
        mean = ScaledStep._mean

        def kept(self, replies):
            seen.append(mean(self, replies))
            return seen[-1]

        with monkeypatch.context() as patch:
            patch.setattr(ScaledStep, "_mean", kept)
            strategy = FedHyper(fedavg(), mode="sl", gamma_beta=1.0, alpha=0.5, beta=RATE)
            return bits(run(strategy, rounds=2).arrays), seen

    arrays, whole = trained()
    monkeypatch.setattr(vectors, "_BLOCK", 5)
    in_blocks, blocks = trained()
    assert in_blocks == arrays
    for one, other in zip(whole, blocks, strict=True):
        assert torch.equal(one.delta, other.delta)
        assert one.squared_norms == pytest.approx(other.squared_norms, rel=1e-14)
        assert one.delta.dtype == torch.float32


def test_the_rates_of_nested_strategies_are_those_of_each():
    result = run(NESTED["three"](), grid(), rounds=3)
    alone = run(FedHyper(fedavg(), beta=RATE), grid(), rounds=1)
    assert metrics(result, 1)["fedhyper-alpha"] == metrics(alone, 1)["fedhyper-alpha"] == 1.0
    assert metrics(result, 1)["fedexp-alpha"] >= 1.0
