"""Entries of the model that are no weights: counts, booleans, and constants like -inf."""

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord
from flwr.serverapp.strategy import (
    FedAdam,
    FedAvg,
    FedAvgM,
    FedMedian,
    FedTrimmedAvg,
    Krum,
    QFedAvg,
    Result,
    Strategy,
)

from hdet.federated.selection import PowerOfChoice
from hdet.integrations.flower import FedExP, FedHyper, SelectClients
from hdet.integrations.flower.model import GlobalModel, Unfit, decode
from hdet.integrations.flower.records import tensor

from .flower_faults import RATE, FaultyGrid, Mixed, put
from .local_grid import LocalGrid

OWN = {name: value.dtype for name, value in Mixed().state_dict().items()}
CONSTANT = ("mask", "kept", "quantised", "drawn")
STRATEGIES = {
    "FedAvg": lambda: FedAvg(fraction_evaluate=0.0),
    "FedAvgM": lambda: FedAvgM(server_momentum=0.9, fraction_evaluate=0.0),
    "FedAdam": lambda: FedAdam(eta=0.02, fraction_evaluate=0.0),
    "FedMedian": lambda: FedMedian(fraction_evaluate=0.0),
    "FedTrimmedAvg": lambda: FedTrimmedAvg(fraction_evaluate=0.0),
    "Krum": lambda: Krum(fraction_evaluate=0.0),
    # On its own q-FedAvg cannot train a model with whole numbers at all.
    "QFedAvg": lambda: QFedAvg(RATE, fraction_evaluate=0.0),
}


@pytest.fixture(autouse=True)
def _no_collecting(monkeypatch):
    monkeypatch.setattr("gc.collect", lambda *_: 0)


def train(strategy: Strategy, nodes: LocalGrid | None = None, rounds: int = 3) -> Result:
    return strategy.start(
        nodes or FaultyGrid(0, share=0.0),
        ArrayRecord(Mixed().state_dict()),
        rounds,
        train_config=ConfigRecord({"lr": RATE}),
    )


def types(record: ArrayRecord) -> dict[str, torch.dtype]:
    return {name: tensor(array).dtype for name, array in record.items()}


def counts(types: dict[str, torch.dtype]) -> dict[str, torch.dtype]:
    return {name: dtype for name, dtype in types.items() if not dtype.is_floating_point}


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: FedHyper(s, beta=RATE),
        lambda s: FedHyper(SelectClients(s, PowerOfChoice(candidates=6), 6), beta=RATE),
        FedExP,
    ],
    ids=["FedHyper", "selecting", "FedExP"],
)
def test_every_message_and_the_result_have_the_models_own_types(name, wrap):
    nodes = FaultyGrid(0, share=0.0)
    result = train(wrap(STRATEGIES[name]()), nodes)
    sent = [m for m in nodes.sent if "arrays" in m.content.array_records]
    for record in [*(m.content.array_records["arrays"] for m in sent), result.arrays]:
        assert list(record) == list(OWN)
        assert counts(types(record)) == counts(OWN)
        for constant in CONSTANT:
            assert tensor(record[constant]).equal(Mixed().state_dict()[constant])
    # Two steps in each of three rounds on every client, whatever a server's optimizer does.
    assert int(tensor(result.arrays["norm.num_batches_tracked"])) == 6
    assert not tensor(result.arrays["first.weight"]).equal(Mixed().state_dict()["first.weight"])


def test_updates_are_of_weights_alone():
    nodes = FaultyGrid(0, share=0.0)
    train(FedHyper(STRATEGIES["FedAvg"](), beta=RATE), nodes)
    updates = [
        m.content.array_records["previous-update"]
        for m in nodes.sent
        if "previous-update" in m.content
    ]
    assert len(updates) == 12
    assert {tuple(update) for update in updates} == {
        tuple(name for name, _ in Mixed().named_parameters())
    }


def test_weights_are_those_of_a_model_without_other_entries():
    """To the wrapped strategy, entries that are no weights are constant."""

    def weights(result: Result) -> torch.Tensor:
        names = [name for name, _ in Mixed().named_parameters()]
        return torch.cat([tensor(result.arrays[name]).flatten() for name in names])

    alone = train(STRATEGIES["FedAvg"]())
    within = train(SelectClients(STRATEGIES["FedAvg"](), PowerOfChoice(candidates=6), 6))
    assert weights(alone).equal(weights(within))


@pytest.mark.parametrize(
    ("told", "mean"), [([3, 4, 8, 8, 8, 8], 7), ([1, 1, 1, 1, 1, 2], 1), ([255] * 6, 255)]
)
def test_counts_are_the_weighted_mean_rounded(told, mean):
    class Counting(FaultyGrid):
        def send_and_receive(self, messages, *, timeout=None):
            answers = super().send_and_receive(messages, timeout=timeout)
            for answer in answers:
                partition = self.partitions[answer.metadata.src_node_id]
                if answer.metadata.message_type == "train":
                    put(answer, quantised=Array(np.full(5, told[partition], np.uint8)))
            return answers

    # Weights are 8, 10, ... 18 examples: (3*8 + 4*10 + 8*(12+14+16+18)) / 78 = 6.97.
    result = train(FedHyper(STRATEGIES["FedAvg"](), beta=RATE), Counting(0, share=0.0), 1)
    assert tensor(result.arrays["quantised"]).tolist() == [mean] * 5


def of(**entries: np.ndarray) -> ArrayRecord:
    return ArrayRecord({name: Array(value) for name, value in entries.items()})


@pytest.mark.parametrize(
    ("own", "made", "restored"),
    [
        (np.array([True, False]), np.array([0.6, 0.4]), np.array([True, False])),
        (np.array(3, np.uint8), np.array(300.0), np.array(255, np.uint8)),
        (np.array(3, np.int8), np.array(-300.0), np.array(-128, np.int8)),
        (np.array(3), np.array(1e30), np.array(2**63 - 1024)),
        (np.array(3), np.array(2.5), np.array(2)),
        (
            np.array([1.0, -np.inf, np.nan], np.float32),
            np.array([2.0, 0.0, 0.0], np.float32),
            np.array([2.0, -np.inf, np.nan], np.float32),
        ),
    ],
)
def test_what_is_made_of_an_entry_goes_on_as_the_model_has_it(own, made, restored):
    model = GlobalModel(of(x=own), "FedHyper")
    found = model.restored(of(x=made), {})["x"].numpy()
    assert found.dtype == own.dtype
    np.testing.assert_array_equal(found, restored)


def test_the_wrapped_strategy_sees_neither_counts_nor_infinities():
    model = GlobalModel(
        of(n=np.array(3), on=np.array(True), mask=np.array([0.0, -np.inf])), "FedHyper"
    )
    plain = {name: array.numpy() for name, array in model.plain(model.arrays).items()}
    assert {name: value.dtype for name, value in plain.items()} == dict.fromkeys(
        plain, np.dtype(float)
    )
    assert [plain["n"], plain["on"], *plain["mask"]] == [3.0, 1.0, 0.0, 0.0]


def test_a_model_of_finite_weights_is_handed_on_as_it_is():
    arrays = of(w=np.ones(3, np.float32))
    model = GlobalModel(arrays, "FedHyper")
    assert model.plain(arrays) is arrays
    assert model.restored(arrays, {}) is arrays


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (np.array(["a"]), "entry 'x' is of <U1, and must be of numbers"),
        (Array(dtype="float32", shape=(1,), stype="torch", data=b""), "serialised as 'torch'"),
    ],
)
def test_a_model_that_is_no_model_is_refused_at_the_start(entry, message):
    array = Array(entry) if isinstance(entry, np.ndarray) else entry
    nodes = FaultyGrid(0, share=0.0)
    with pytest.raises(ValueError, match=rf"`FedHyper.start` got a model .*{message}"):
        FedHyper(FedAvg(fraction_evaluate=0.0)).start(nodes, ArrayRecord({"x": array}), 1)
    assert nodes.calls == 0


def test_a_model_with_nan_is_said_once(warned):
    state = Mixed().state_dict()
    state["norm.running_mean"] = torch.full((6,), torch.nan)
    nodes = FaultyGrid(0, share=0.0)
    FedHyper(FedAvg(fraction_evaluate=0.0), beta=RATE).start(nodes, ArrayRecord(state), 1)
    assert warned().count("entries ['norm.running_mean'] hold NaN") == 1


def test_a_constant_entry_cannot_be_named_trainable():
    with pytest.raises(ValueError, match=r"names \['mask'\], which are no floating-point"):
        train(FedHyper(FedAvg(fraction_evaluate=0.0), beta=RATE, trainable=["mask"]))


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"\x93NUMPY\x01\x00", b"\x80\x04K\x01."])
def test_bytes_that_are_no_array_are_unfit(data):
    with pytest.raises(Unfit, match="no whole NumPy array"):
        decode(Array(dtype="float32", shape=(1,), stype="numpy.ndarray", data=data))
