"""Selecting clients on Flower: two phases, names, and what happens when nodes fail."""

import pytest
import torch
from flwr.app import ArrayRecord, Message, MetricRecord
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg, FedAvgM, FedProx, Strategy

from hdet.federated.selection import (
    ClientReport,
    HeteroSelect,
    HeteroSelectV2,
    Oort,
    PowerOfChoice,
    Random,
    Selector,
)
from hdet.integrations.flower import FedHyper, SelectClients, select_clients
from hdet.integrations.flower.records import tensor

from .flower_clients import RATE, bits, client_app, config, flat, grid, model, run
from .local_grid import LocalGrid, node_id

SELECTORS = {
    "Random": Random,
    "PowerOfChoice": lambda: PowerOfChoice(candidates=4),
    "Oort": Oort,
    "HeteroSelect": HeteroSelect,
    "HeteroSelectV2": HeteroSelectV2,
}


def fedavg(**settings) -> FedAvg:
    return FedAvg(fraction_evaluate=0.0, **settings)


def fails(partition: int, at: int, answer: Message) -> Message:
    """Client 1 is broken; the others take as long in every run, which Oort goes by."""
    if partition == 1:
        raise RuntimeError("disk full")
    answer.content.metric_records["metrics"]["duration"] = 1.0 + partition
    return answer


class Spy(Random):
    """Keeps what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[dict] = []

    def feedback(self, round, reports):
        self.told.append(dict(reports))
        super().feedback(round, reports)


@pytest.mark.parametrize("name", SELECTORS)
def test_node_ids_and_the_order_of_replies_change_nothing(name):
    """Two runs with other node ids, one client always failing: the same to the last bit."""

    def once(salt: int):
        nodes = grid(client_app(tamper=fails, labels=True), salt=salt)
        select = SelectClients(fedavg(), SELECTORS[name](), 3)
        result = run(FedHyper(select, beta=RATE), nodes, rounds=3)
        return nodes.trained(), bits(result.arrays), result.train_metrics_clientapp[3]

    first, second = once(0), once(1)
    assert first[:2] == second[:2]
    assert first[2]["fedhyper-alpha"] == second[2]["fedhyper-alpha"]
    assert [len(chosen) for chosen in first[0]] == [3] * 3


def test_the_round_has_two_phases():
    nodes = grid()
    select = SelectClients(fedavg(), PowerOfChoice(candidates=4), 2)
    run(select, nodes, rounds=2)
    queries = nodes.of_type("query.selection")
    named, probed = queries[:5], queries[5:]
    assert all("arrays" not in m.content for m in named)
    assert len(probed) == 2 * 4
    assert all(config(m)["server-round"] == 1 for m in probed[:4])
    assert all("arrays" in m.content for m in probed)
    # The losses asked for decide: of the four candidates, the two with the highest.
    asked = {nodes.partitions[m.metadata.dst_node_id] for m in probed[:4]}
    assert set(nodes.trained()[0]) <= asked
    assert select.probed == [nodes.partitions[m.metadata.dst_node_id] for m in probed[4:]]
    assert select.selected == nodes.trained()[1]
    assert nodes.calls == 1 + 2 * (1 + 1 + 1)  # names; probes, training and (no) evaluation


def test_the_selections_are_the_selectors_own():
    nodes, selector = grid(), Random(seed=3)
    run(SelectClients(fedavg(), Random(seed=3), 2), nodes)
    assert nodes.trained() == [selector.select(t, range(5), 2) for t in (1, 2, 3)]


def test_a_selector_says_how_many_batches_to_look_at():
    nodes = grid()
    run(SelectClients(fedavg(), HeteroSelectV2(), 2), nodes, rounds=1)
    assert {config(m)["batches"] for m in nodes.of_type("query.selection")[5:]} == {8}


def test_the_selector_hears_what_clients_report():
    spy = Spy()
    nodes = grid(client_app(labels=True))
    result = run(SelectClients(fedavg(), spy, 2), nodes, rounds=2)
    for told, trained in zip(spy.told, nodes.trained(), strict=True):
        assert sorted(told) == trained
        for partition, report in told.items():
            assert report.num_examples == 8 + 2 * partition
            assert report.loss > 0
            assert report.duration > 0
            assert list(report.label_counts) == [8 + 2 * partition, 1]
            norm = float(torch.linalg.vector_norm(report.update))
            assert report.update_norm == pytest.approx(norm, rel=1e-5)
    total = sum(report.num_examples for report in spy.told[0].values())
    mean = sum(r.update * (r.num_examples / total) for r in spy.told[0].values())
    start = flat(ArrayRecord(model().state_dict()))
    first = run(SelectClients(fedavg(), Spy(), 2), nodes, rounds=1)
    torch.testing.assert_close(flat(first.arrays), start + mean, rtol=1e-5, atol=1e-6)
    assert not {"partition-id", "label-counts"} & result.train_metrics_clientapp[2].keys()


def test_both_orders_of_wrapping_work_and_agree():
    def trained(build) -> tuple:
        nodes = grid()
        result = run(build(FedProx(fraction_evaluate=0.0, proximal_mu=0.1)), nodes)
        return nodes.trained(), bits(result.arrays)

    outside = trained(
        lambda inner: FedHyper(SelectClients(inner, HeteroSelect(), 3), beta=RATE)
    )
    inside = trained(lambda inner: SelectClients(FedHyper(inner, beta=RATE), HeteroSelect(), 3))
    assert outside == inside


def test_a_client_that_fails_is_survived_and_not_fed_back(warned):
    spy = Spy()
    nodes = grid(client_app(tamper=fails))
    result = run(SelectClients(fedavg(), spy, 4), nodes, rounds=4)
    assert len(result.train_metrics_clientapp) == 4
    assert any(1 in chosen for chosen in nodes.trained())
    assert not any(1 in told for told in spy.told)
    assert "has no usable reply of [1]" in warned()


def test_a_silent_node_is_survived():
    nodes = grid()
    nodes.silent = {node_id(2)}
    result = run(SelectClients(fedavg(), HeteroSelect(), 3), nodes)
    assert len(result.train_metrics_clientapp) == 3


class Vanishing(LocalGrid):
    """Partition 0 is gone in rounds 2 and 3, and then is back under another node id."""

    def send_and_receive(self, messages, *, timeout=None):
        replies = super().send_and_receive(messages, timeout=timeout)
        rounds = len(self.trained())
        if rounds == 1:
            self.offline = {node_id(0)}
        if rounds == 3 and node_id(0) in self.contexts:
            self.contexts[77], self.partitions[77] = self.contexts.pop(node_id(0)), 0
        return replies


def test_a_node_that_comes_back_takes_up_its_partitions_past():
    nodes = Vanishing(client_app(), {node_id(p): p for p in range(3)})
    spy = Spy()
    select = SelectClients(fedavg(), spy, 3, min_available_nodes=2)
    run(select, nodes, rounds=5)
    assert nodes.trained() == [[0, 1, 2], [1, 2], [1, 2], [0, 1, 2], [0, 1, 2]]
    assert select.selected == [0, 1, 2]
    assert len(nodes.of_type("query.selection")) == 3 + 1


class Ghostly(LocalGrid):
    """Partition 0 is under id 99 from round 2 on; its old node is shown until round 4."""

    def get_node_ids(self):
        rounds = len(self.trained())
        self.silent = {node_id(0)} if rounds else set()
        shown = ((node_id(0), rounds < 3), (node_id(1), True), (99, rounds >= 1))
        return [node for node, there in shown if there]


def test_a_client_that_is_back_before_its_old_node_is_gone_takes_up_its_past(warned):
    nodes = Ghostly(client_app(), {node_id(0): 0, node_id(1): 1, 99: 0})
    spy = Spy()
    select = SelectClients(fedavg(), spy, 3, min_available_nodes=2)
    run(select, nodes, rounds=5)
    assert [sorted(told, key=str) for told in spy.told] == [
        [0, 1], [1, "node 99"], [1, "node 99"], [0, 1], [0, 1]]  # fmt: skip
    assert select.selected == [0, 1]
    assert "node 99 is a second partition 0" in warned()


def test_without_a_partition_nodes_are_known_by_their_ids(warned):
    nodes = LocalGrid(client_app(), {11: -1, 12: -1, 13: 5})
    select = SelectClients(fedavg(), Random(), 3)
    run(select, nodes, rounds=1)
    assert select.selected == [5, "node 11", "node 12"]
    assert "node 11 named no partition; it is known by its node id" in warned()


def test_one_partition_on_two_nodes_is_told_apart(warned):
    select = SelectClients(fedavg(), Random(), 2)
    run(select, LocalGrid(client_app(), {11: 3, 12: 3}), rounds=1)
    assert select.selected == [3, "node 12"]
    assert "is a second partition 3" in warned()


def test_clients_that_answer_no_queries_can_still_be_selected(warned):
    app, whole = ClientApp(), client_app()
    app.train()(lambda message, context: whole(message, context))
    nodes = grid(app)
    result = run(SelectClients(fedavg(), HeteroSelect(), 3), nodes, rounds=2)
    assert len(result.train_metrics_clientapp) == 2
    assert "could not answer the query" in warned()


def test_replies_can_be_weighed_by_the_selectors_scores():
    nodes, selector = grid(), HeteroSelectV2()
    inner = fedavg(weighted_by_key="selection-share")
    result = run(SelectClients(inner, selector, 3), nodes, rounds=1)
    models = {}

    def keep(partition: int, at: int, answer: Message) -> Message:
        models[partition] = answer.content["arrays"]
        return answer

    run(SelectClients(fedavg(), HeteroSelectV2(), 3), grid(client_app(tamper=keep)), rounds=1)
    shares = {n: max(s, 1e-6) for n, s in selector.scores.items()}
    mean = sum(s * tensor(models[n]["0.weight"]) for n, s in shares.items())
    expected = mean / sum(shares.values())
    torch.testing.assert_close(tensor(result.arrays["0.weight"]), expected)


class Hidden(Strategy):
    """A strategy around another that does not say so."""

    def __init__(self, inner: Strategy) -> None:
        self._inner = inner

    def configure_train(self, server_round, arrays, config, grid):
        return self._inner.configure_train(server_round, arrays, config, grid)

    def aggregate_train(self, server_round, replies):
        return self._inner.aggregate_train(server_round, replies)

    def configure_evaluate(self, server_round, arrays, config, grid):
        return self._inner.configure_evaluate(server_round, arrays, config, grid)

    def aggregate_evaluate(self, server_round, replies):
        return self._inner.aggregate_evaluate(server_round, replies)

    def summary(self):
        self._inner.summary()


def test_waiting_for_more_nodes_than_selected_is_an_error_and_no_hang(monkeypatch):
    waits = []
    monkeypatch.setattr("flwr.serverapp.strategy.strategy_utils.sleep", waits.append)
    hidden = Hidden(fedavg(min_available_nodes=4))
    with pytest.raises(RuntimeError, match="Hidden waits for more nodes than the 3"):
        run(SelectClients(hidden, Random(), 3))
    assert sum(waits) < 15


@pytest.mark.parametrize(
    ("inner", "message"),
    [
        (fedavg(min_available_nodes=4), r"count=3.*min_available_nodes=4 of FedAvg"),
        (fedavg(min_train_nodes=5), r"min_train_nodes=5 of FedAvg"),
        (FedHyper(fedavg(fraction_train=0.5)), r"strategy='FedAvg'.*fraction_train=0.5"),
        (FedAvgM(weighted_by_key="selection-share"), "selector='Random'.*has no scores"),
    ],
)
def test_what_could_only_hang_or_mislead_is_refused(inner, message):
    with pytest.raises(ValueError, match=message):
        SelectClients(inner, Random(), 3)


@pytest.mark.parametrize("settings", [{"count": 0}, {"min_available_nodes": 0}])
def test_bad_numbers_are_refused(settings):
    with pytest.raises(ValueError, match="at least 1"):
        SelectClients(fedavg(), Random(), **{"count": 2, **settings})


def test_too_few_nodes_end_the_run_after_a_while(monkeypatch):
    monkeypatch.setattr(select_clients, "_POLL", 0.01)
    with pytest.raises(RuntimeError, match=r"waited 0.05 s for 9 nodes, and 5 are connected"):
        run(SelectClients(fedavg(), Random(), 9, wait_timeout=0.05))


def test_a_reply_without_a_loss_says_nothing_to_the_selector(warned):
    def mute(partition: int, at: int, answer: Message) -> Message:
        told = answer.content.metric_records["metrics"]
        kept = {k: v for k, v in told.items() if k != "train-loss"}
        answer.content["metrics"] = MetricRecord(kept)
        return answer

    spy = Spy()
    result = run(SelectClients(fedavg(), spy, 3), grid(client_app(tamper=mute)), rounds=1)
    assert spy.told == [{}]
    assert len(result.arrays) == 4
    assert "told the selector nothing: its metrics hold no number 'train-loss'" in warned()


def test_selectors_of_others_fit_too():
    class Last(Selector):
        def _choose(self, now):
            return torch.arange(len(now.rows))[-now.count :]

    nodes = grid()
    run(SelectClients(fedavg(), Last(), 2), nodes, rounds=1)
    assert nodes.trained() == [[3, 4]]
    assert ClientReport(loss=1.0, num_examples=1).loss == 1.0
