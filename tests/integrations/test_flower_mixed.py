"""Rounds in which all faults come together: the run goes on, and the counts are right."""

import random
from collections.abc import Callable
from typing import Any

import pytest
from flwr.app import ArrayRecord, ConfigRecord
from flwr.serverapp.strategy import (
    FedAdagrad,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedMedian,
    FedProx,
    FedTrimmedAvg,
    FedYogi,
    Krum,
    MultiKrum,
    QFedAvg,
    Strategy,
)

from hdet.federated.selection import HeteroSelect, HeteroSelectV2, Oort, PowerOfChoice, Random
from hdet.integrations.flower import FedExP, FedHyper, SelectClients, wrapper

from .flower_faults import RATE, FaultyGrid, Mixed

FEW: dict[str, Any] = {"min_train_nodes": 1, "min_evaluate_nodes": 1, "min_available_nodes": 1}
# Every strategy of Flower's that takes a model, and a wrapping; both orders are among them.
RUNS: dict[str, Callable[[], Strategy]] = {
    "FedHyper(FedAvg)": lambda: FedHyper(FedAvg(**FEW), beta=RATE),
    "FedHyper(FedAvgM)": lambda: FedHyper(FedAvgM(server_momentum=0.9, **FEW), beta=RATE),
    "FedHyper(FedAdam)": lambda: FedHyper(FedAdam(eta=0.02, **FEW), beta=RATE),
    "SelectClients(FedYogi)": lambda: SelectClients(FedYogi(**FEW), HeteroSelect(), 4),
    "SelectClients(FedAdagrad)": lambda: SelectClients(FedAdagrad(**FEW), Oort(), 4),
    "FedHyper(SelectClients(FedProx))": lambda: FedHyper(
        SelectClients(FedProx(proximal_mu=0.1, **FEW), HeteroSelectV2(), 4), beta=RATE
    ),
    "SelectClients(FedHyper(FedMedian))": lambda: SelectClients(
        FedHyper(FedMedian(**FEW), beta=RATE), PowerOfChoice(candidates=5), 4
    ),
    "FedExP(FedTrimmedAvg)": lambda: FedExP(FedTrimmedAvg(beta=0.2, **FEW)),
    "SelectClients(MultiKrum)": lambda: SelectClients(
        MultiKrum(num_nodes_to_select=2, **FEW), Random(), 4
    ),
    "FedHyper(Krum)": lambda: FedHyper(Krum(**FEW), beta=RATE),
    "FedHyper(QFedAvg)": lambda: FedHyper(QFedAvg(RATE, **FEW), beta=RATE),
}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_of_faults_goes_on_and_leaves_out_those_and_no_others(name, monkeypatch):
    monkeypatch.setattr("gc.collect", lambda *_: 0)  # QFedAvg's, seconds of it
    used: list[set[int]] = []

    def spied(*given):
        sifted = sift(*given)
        used.append({reply.metadata.src_node_id for reply in sifted.good})
        return sifted

    sift = wrapper.sift
    monkeypatch.setattr(wrapper, "sift", spied)
    random.seed(0)  # Flower samples by it
    nodes = FaultyGrid(seed=len(name))
    result = RUNS[name]().start(
        nodes, ArrayRecord(Mixed().state_dict()), 5, train_config=ConfigRecord({"lr": RATE})
    )
    assert sum(nodes.hit.values()) > 10
    assert used == [nodes.expected(batch) for batch in range(len(nodes.batches))]
    assert [kind for kind, _ in nodes.batches] == ["train", "evaluate"] * 5
    # Every round of which anything remained was trained, and evaluated.
    for kind, told in (
        ("train", result.train_metrics_clientapp),
        ("evaluate", result.evaluate_metrics_clientapp),
    ):
        whole = [n for n, (k, _) in zip(used, nodes.batches, strict=True) if k == kind]
        assert sorted(told) == [at for at, some in enumerate(whole, 1) if some]
    made, own = result.arrays.to_torch_state_dict(), Mixed().state_dict()
    assert {n: v.dtype for n, v in made.items() if not v.is_floating_point()} == {
        n: v.dtype for n, v in own.items() if not v.is_floating_point()
    }
    for constant in ("mask", "kept", "quantised", "drawn"):
        assert made[constant].equal(own[constant])
    weights = [v for n, v in made.items() if v.is_floating_point() and n != "mask"]
    assert all(v.isfinite().all() and v.abs().max() < 1e3 for v in weights)
