"""Replies that do not fit are left out, by name and with the reason; rounds go on."""

import io
import os
import re
from functools import cache

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp.strategy import FedAvg, FedAvgM, Result, Strategy

from hdet.federated.selection import Random
from hdet.integrations.flower import Decay, FedExP, FedHyper, SelectClients

from .flower_clients import RATE, bits, client_app, flat, grid, model, run
from .flower_faults import LEFT_OUT, USED, FaultyGrid, Mixed
from .local_grid import node_id


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
    assert "sent an update of norm inf, which is disproportionate" in warned()
    assert strategy.alpha == 1.0


def silent(partition: int) -> FaultyGrid:
    nodes = FaultyGrid(0, share=0.0)
    nodes.silent = {node_id(partition)}
    return nodes


class OneFault(FaultyGrid):
    """Partition 2 answers every train message by one fault, the others as they should."""

    def __init__(self, what: str) -> None:
        super().__init__(0, share=0.0)
        self._what = what

    def send_and_receive(self, messages, *, timeout=None):
        answers = super().send_and_receive(messages, timeout=timeout)
        for answer in answers:
            told = self.partitions[answer.metadata.src_node_id] == 2
            if told and answer.metadata.message_type == "train":
                (LEFT_OUT | USED)[self._what](answer)
        return answers


def train(nodes: FaultyGrid, strategy: Strategy | None = None, rounds: int = 2) -> Result:
    return (strategy or fedhyper()).start(
        nodes,
        ArrayRecord(Mixed().state_dict()),
        rounds,
        train_config=ConfigRecord({"lr": RATE}),
    )


@cache
def without_partition_2() -> dict[str, bytes]:
    return bits(train(silent(2)).arrays)


@pytest.mark.parametrize("what", LEFT_OUT)
def test_whatever_a_client_sends_it_is_left_out_and_the_others_count(what, warned):
    """The run is the one in which that client never answered, bit for bit."""
    assert bits(train(OneFault(what)).arrays) == without_partition_2()
    lines = [line for line in warned().splitlines() if "left out of this round" in line]
    # Once in each round, and never one of the other nodes.
    assert len(lines) == 2
    assert all(line.startswith(f"node {node_id(2)} ") for line in lines)


@pytest.mark.parametrize("what", USED)
def test_what_only_looks_odd_is_used(what, warned):
    expected = flat(train(FaultyGrid(0, share=0.0)).arrays)
    torch.testing.assert_close(flat(train(OneFault(what)).arrays), expected)
    assert "left out" not in warned()


def test_objects_are_never_unpickled(tmp_path):
    class Touch:
        def __reduce__(self):
            return (os.system, (f"touch {tmp_path / 'unpickled'}",))

    buffer = io.BytesIO()
    np.save(buffer, np.array([Touch()] * 24, dtype=object).reshape(6, 4), allow_pickle=True)

    def objects(answer: Message) -> None:
        own = arrays(answer)["0.weight"]
        bad = Array(dtype="float32", shape=own.shape, stype=own.stype, data=buffer.getvalue())
        answer.content["arrays"] = ArrayRecord({**arrays(answer), "0.weight": bad})

    run(fedhyper(), grid(tampered(objects)), rounds=2)
    assert not (tmp_path / "unpickled").exists()


def moved(*norms: float) -> set[int]:
    """Return the partitions whose replies are used if their updates have these lengths."""

    def move(partition: int, at: int, answer: Message) -> Message:
        own = model().state_dict()
        size = sum(value.numel() for value in own.values())
        step = norms[partition] / size**0.5
        answer.content["arrays"] = ArrayRecord(
            {name: value + step for name, value in own.items()}
        )
        return answer

    spy = Spy()
    used = SelectClients(FedAvg(fraction_evaluate=0.0), spy, len(norms))
    run(used, grid(client_app(tamper=move), len(norms)), rounds=1)
    return set(spy.heard)


class Spy(Random):
    """Keeps whose replies it is told of."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[int] = []

    def feedback(self, round, reports):
        self.heard += reports
        super().feedback(round, reports)


@pytest.mark.parametrize(
    ("norms", "used"),
    [
        ((1e30, 1.0, 1.0, 1.0), {1, 2, 3}),
        ((1e30, 1.0), {1}),
        ((1e30, 1e30, 1.0), {2}),
        # Not by comparison with each other: nothing that long is an update.
        ((1e30, 1e30, 1e30, 1.0), {3}),
        ((1e5, 1.0, 1.0), {1, 2}),
        # Honest clients: a hundred times the data; most that did not train; large weights.
        ((0.01, 0.02, 1.0, 2.0, 50.0), {0, 1, 2, 3, 4}),
        ((0.0, 0.0, 0.0, 5.0), {0, 1, 2, 3}),
        ((1e6, 3e6, 1e4), {0, 1, 2}),
        ((1e6, 1.0), {1}),
    ],
)
def test_disproportionate_updates_are_left_out_and_unlike_ones_are_not(norms, used):
    assert moved(*norms) == used


@pytest.mark.parametrize(("norm", "rounds"), [(1e30, []), (50.0, [1])])
def test_a_single_reply_is_judged_by_the_model(norm, rounds):
    def move(partition: int, at: int, answer: Message) -> Message:
        sent = {n: v + norm / 6 for n, v in model().state_dict().items()}
        answer.content["arrays"] = ArrayRecord(sent)
        return answer

    one = FedAvg(fraction_evaluate=0.0, min_train_nodes=1, min_available_nodes=1)
    result = run(FedHyper(one, beta=RATE), grid(client_app(tamper=move), 1), rounds=1)
    assert sorted(result.train_metrics_clientapp) == rounds


def test_a_single_reply_is_judged_by_the_last_round_too():
    """An update of 1e5 is no update after those of about 1."""

    def later(partition: int, at: int, answer: Message) -> Message:
        if at == 2:
            sent = {n: Array(v.numpy() + 1e5) for n, v in arrays(answer).items()}
            answer.content["arrays"] = ArrayRecord(sent)
        return answer

    one = FedAvg(fraction_evaluate=0.0, min_train_nodes=1, min_available_nodes=1)
    result = run(FedHyper(one, beta=RATE), grid(client_app(tamper=later), 1), rounds=3)
    assert sorted(result.train_metrics_clientapp) == [1, 3]


class Loss(FedAvg):
    """Aggregates into a model that is not finite in round two."""

    def aggregate_train(self, server_round, replies):
        made, means = super().aggregate_train(server_round, replies)
        if made is not None and server_round == 2:
            made["0.bias"] = Array(np.full(6, np.nan, np.float32))
        return made, means


class Momentum(FedAvgM, Loss):
    """The same with momentum, which then holds what is not finite."""


@pytest.mark.parametrize(
    "wrap", [lambda s: FedHyper(s, beta=RATE), lambda s: SelectClients(s, Random(), 5)]
)
def test_a_model_that_the_strategy_within_breaks_is_not_taken(wrap, warned):
    strategy = wrap(Momentum(server_momentum=0.9, fraction_evaluate=0.0))
    result = run(strategy, rounds=3)
    assert flat(result.arrays).isfinite().all()
    assert sorted(result.train_metrics_clientapp) == [1, 3]
    assert "Momentum made a model of the replies whose entries ['0.bias'" in warned()


def test_an_error_of_the_selector_passes_over_one_report(warned):
    class Picky(Random):
        def feedback(self, round, reports):
            if 1 in reports:
                raise ValueError("not of 1")
            super().feedback(round, reports)

    select = SelectClients(FedAvg(fraction_evaluate=0.0), Picky(), 3)
    result = run(select, grid(count=3), rounds=2)
    assert len(result.train_metrics_clientapp) == 2
    assert "the selector refuses what 1 reports: not of 1" in warned()
    assert select.state_dict()["own"]["registry"]["answers"].tolist() == [2, 0, 2]
