"""Replies that do not fit are left out, by name and with the reason; rounds go on."""

import re
from functools import cache

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, MetricRecord
from flwr.serverapp.strategy import FedAvg, FedAvgM, Result

from hdet.integrations.flower import Decay, FedExP, FedHyper

from .flower_clients import RATE, bits, client_app, grid, run


def fedhyper(**settings) -> FedHyper:
    return FedHyper(FedAvg(fraction_evaluate=0.0), **{"beta": RATE, "mode": "g+sl", **settings})


def arrays(answer: Message) -> dict[str, Array]:
    return dict(answer.content.array_records["arrays"].items())


def not_a_number(answer: Message) -> None:
    broken = arrays(answer)
    broken["0.weight"] = Array(np.full((6, 4), np.nan, dtype=np.float32))
    answer.content["arrays"] = ArrayRecord(broken)


def other_shape(answer: Message) -> None:
    answer.content["arrays"] = ArrayRecord({**arrays(answer), "0.bias": Array(np.zeros(7))})


def lacks_an_entry(answer: Message) -> None:
    answer.content["arrays"] = ArrayRecord(
        {k: v for k, v in arrays(answer).items() if k != "0.bias"}
    )


def two_models(answer: Message) -> None:
    answer.content["more"] = ArrayRecord(arrays(answer))


def no_model(answer: Message) -> None:
    del answer.content["arrays"]


def no_weight(answer: Message) -> None:
    answer.content["metrics"] = MetricRecord({"partition-id": 3})


def weight_of_zero(answer: Message) -> None:
    answer.content.metric_records["metrics"]["num-examples"] = 0


def infinite_weight(answer: Message) -> None:
    answer.content.metric_records["metrics"]["num-examples"] = float("inf")


def other_metrics(answer: Message) -> None:
    answer.content.metric_records["metrics"]["mine"] = 1.0


def longer_list(answer: Message) -> None:
    answer.content.metric_records["metrics"]["label-counts"] = [1.0, 2.0, 3.0]


def two_metric_records(answer: Message) -> None:
    answer.content["more"] = MetricRecord({"x": 1.0})


FAULTS = {
    not_a_number: "sent '0.weight' with numbers that are not finite",
    other_shape: r"sent '0.bias' as \(7,\), not \(6,\)",
    lacks_an_entry: r"sent a model that lacks \['0.bias'\]",
    two_models: "sent 2 ArrayRecords",
    no_model: "sent 0 ArrayRecords",
    no_weight: "sent 'num-examples' = None",
    weight_of_zero: "sent 'num-examples' = 0, which must be a number above 0",
    infinite_weight: "sent 'num-examples' = inf",
    other_metrics: "sent the metrics .*'mine'.* and most others sent",
    longer_list: r"sent the metrics .*'label-counts\[3\]'.* 'label-counts\[2\]'",
    two_metric_records: "sent 2 MetricRecords",
}


def tampered(fault, partitions=(3,), at_round: int = 2):
    def tamper(partition: int, at: int, answer: Message) -> Message:
        if partition in partitions and at == at_round:
            fault(answer)
        return answer

    return client_app(tamper=tamper, labels=True)


def refuses(answer: Message) -> None:
    raise RuntimeError("refused")


@cache
def refused() -> Result:
    return run(fedhyper(), grid(tampered(refuses)))


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_faulty_reply_counts_as_none(fault, warned):
    """The run is the one in which that client had answered by an error."""
    expected = refused()
    found = run(fedhyper(), grid(tampered(fault)))
    assert bits(found.arrays) == bits(expected.arrays)
    said = warned()
    assert "partition 3)" in said or fault is two_metric_records
    assert "its reply is left out of this round" in said
    assert re.search(FAULTS[fault], said)


@pytest.mark.parametrize("fault", [refuses, not_a_number])
@pytest.mark.parametrize("inner", [FedAvg, lambda **k: FedAvgM(server_momentum=0.9, **k)])
def test_a_round_without_a_usable_reply_changes_nothing(fault, inner, warned):
    """The run of three rounds, of which the second fails, is the run of two."""
    nodes = grid(tampered(fault, range(5)))
    three, two = (
        FedHyper(inner(fraction_evaluate=0.0), mode="g+sl", beta=RATE) for _ in range(2)
    )
    failed = run(three, nodes, rounds=3)
    whole = run(two, rounds=2)
    assert bits(failed.arrays) == bits(whole.arrays)
    assert three.alpha == two.alpha
    assert three.beta == two.beta
    assert sorted(failed.train_metrics_clientapp) == [1, 3]
    assert "FedHyper: round 2 brought no new model, and changed nothing" in warned()


@pytest.mark.parametrize("wrap", [FedExP, lambda s: Decay(s, RATE)])
def test_the_other_wrappers_check_replies_too(wrap, warned):
    run(wrap(FedAvg(fraction_evaluate=0.0)), grid(tampered(not_a_number)), rounds=2)
    assert "not finite" in warned()


def test_updates_too_large_to_multiply_leave_the_round_out(warned):
    def huge(answer: Message) -> None:
        broken = {k: Array(np.full(v.shape, 1e200)) for k, v in arrays(answer).items()}
        answer.content["arrays"] = ArrayRecord(broken)

    strategy = fedhyper()
    result = run(strategy, grid(tampered(huge, range(5))), rounds=2)
    assert sorted(result.train_metrics_clientapp) == [1]
    assert "has a mean update that is not finite" in warned()
    assert strategy.alpha == 1.0
