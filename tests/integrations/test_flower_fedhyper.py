"""FedHyper around Flower's strategies: rates, messages, and what it leaves alone."""

from inspect import signature

import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord
from flwr.serverapp.strategy import (
    DifferentialPrivacyServerSideFixedClipping,
    FedAdagrad,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedMedian,
    FedProx,
    FedTrimmedAvg,
    FedYogi,
    QFedAvg,
    Strategy,
)

from hdet.federated import ClientLocalRate, GlobalRate, ServerLocalRate
from hdet.integrations.flower import FedExP, FedHyper
from hdet.integrations.flower.records import tensor

from .flower_clients import (
    RATE,
    STEPS,
    bits,
    client_app,
    config,
    flat,
    grid,
    metrics,
    model,
    run,
)

INNER = {
    "FedAvg": lambda: FedAvg(),
    "FedAvgM": lambda: FedAvgM(server_learning_rate=0.8, server_momentum=0.9),
    "FedAdam": lambda: FedAdam(eta=0.02),
    "FedYogi": lambda: FedYogi(),
    "FedAdagrad": lambda: FedAdagrad(eta=0.02),
    "FedProx": lambda: FedProx(proximal_mu=0.1),
    "FedMedian": lambda: FedMedian(),
    "FedTrimmedAvg": lambda: FedTrimmedAvg(beta=0.2),
    "QFedAvg": lambda: QFedAvg(RATE, train_loss_key="train-loss"),
}


def quiet(strategy: Strategy) -> Strategy:
    """Switch evaluation off, which these tests do not look at."""
    for name in ("fraction_evaluate", "min_evaluate_nodes"):
        setattr(strategy, name, 0.0)
    return strategy


def fedhyper(inner: Strategy | None = None, **settings) -> FedHyper:
    return FedHyper(quiet(inner or FedAvg()), **{"beta": RATE, **settings})


@pytest.fixture(autouse=True)
def _no_collecting(monkeypatch):
    """QFedAvg collects garbage twice for every reply, which takes seconds in a test run."""
    monkeypatch.setattr("gc.collect", lambda *_: 0)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [*((name, torch.float32) for name in INNER), ("FedAvg", torch.float64)],
)
def test_held_at_one_it_is_the_strategy_within_bit_for_bit(name, dtype):
    initial = ArrayRecord(model(dtype=dtype).state_dict())
    nodes = grid(client_app(dtype=dtype))
    bare = run(quiet(INNER[name]()), nodes, 2, initial)
    held = fedhyper(INNER[name](), mode="g+sl+cl", gamma_alpha=1.0, gamma_beta=1.0)
    found = run(held, nodes, 2, initial)
    assert bits(found.arrays) == bits(bare.arrays)
    assert metrics(found, 2)["fedhyper-alpha"] == 1.0


@pytest.mark.parametrize("name", INNER)
def test_alpha_scales_the_step_of_any_strategy(name):
    """One round with alpha 1/2 goes half as far; the next starts from there."""
    start = ArrayRecord(model().state_dict())
    half = run(fedhyper(INNER[name](), mode="sl", gamma_beta=1.0, alpha=0.5), rounds=1)
    whole = run(quiet(INNER[name]()), rounds=1)
    expected = flat(start) + 0.5 * (flat(whole.arrays) - flat(start))
    torch.testing.assert_close(flat(half.arrays), expected, rtol=1e-6, atol=1e-7)


def test_over_momentum_every_round_starts_from_the_scaled_model():
    """FedAvgM takes its own last result for the current model; here it must not."""
    result = run(
        fedhyper(INNER["FedAvgM"](), mode="sl", gamma_beta=1.0, alpha=0.5),
        grid(client_app(dtype=torch.float64)),
        rounds=3,
        initial=ArrayRecord(model(dtype=torch.float64).state_dict()),
    )
    w, momentum = flat(ArrayRecord(model(dtype=torch.float64).state_dict())), 0.0
    for _ in range(3):
        start = unflat(w)
        mean = run(quiet(FedAvg()), grid(client_app(dtype=torch.float64)), 1, initial=start)
        momentum = 0.9 * momentum + (flat(mean.arrays) - w)
        w = w + 0.5 * 0.8 * momentum
    torch.testing.assert_close(flat(result.arrays), w, rtol=0, atol=1e-14)


def unflat(vector: torch.Tensor) -> ArrayRecord:
    state = model(dtype=torch.float64).state_dict()
    pieces = vector.split([value.numel() for value in state.values()])
    pairs = zip(state.items(), pieces, strict=True)
    return ArrayRecord({n: Array(p.reshape(v.shape).numpy()) for (n, v), p in pairs})


def test_alpha_and_beta_follow_the_rules_on_the_raw_mean_update():
    """The mean update that the rules see is the clients', not what FedAdam makes of it."""
    nodes = grid()
    strategy = fedhyper(INNER["FedAdam"](), g_step="absolute", sl_step="relative")
    result = run(strategy, nodes)
    # Beside G the local rate does not fall.
    alpha = GlobalRate(step="absolute")
    beta = ServerLocalRate(RATE, step="relative", fall=0.0)
    updates = {
        at(m): m.content.array_records["previous-update"]
        for m in nodes.of_type("train")
        if "previous-update" in m.content
    }
    for t in range(1, 3):
        delta = flat(updates[t + 1])
        sent = beta.beta
        assert metrics(result, t)["fedhyper-alpha"] == alpha.update(delta)
        beta.update(delta)
        assert metrics(result, t)["fedhyper-beta"] == sent
        assert metrics(result, t)["fedhyper-hypergradient"] == alpha.hypergradient


def test_the_new_beta_reaches_the_next_rounds_messages():
    nodes = grid()
    result = run(fedhyper(mode="sl", sl_step="relative"), nodes)
    sent = {
        t: {config(m)["lr"] for m in nodes.of_type("train") if at(m) == t} for t in range(1, 4)
    }
    assert sent[1] == sent[2] == {RATE}
    for t in (2,):
        beta = metrics(result, t)["fedhyper-beta"]
        assert sent[t + 1] == {beta + RATE * metrics(result, t)["fedhyper-hypergradient"]}
        assert sent[t + 1] != sent[t]


def at(message) -> int:
    return config(message)["server-round"]


def test_the_previous_update_travels_with_cl_alone_and_from_round_two():
    nodes = grid()
    start = ArrayRecord(model().state_dict())
    first = run(quiet(FedAvg()), rounds=1).arrays
    run(fedhyper(mode="cl", gamma_beta=1.0), nodes, rounds=2)
    by_round = {t: [m for m in nodes.of_type("train") if at(m) == t] for t in (1, 2)}
    assert all("previous-update" not in m.content for m in by_round[1])
    for message in by_round[2]:
        update = message.content.array_records["previous-update"]
        assert list(update) == list(start)
        torch.testing.assert_close(
            flat(update), flat(first) - flat(start), rtol=1e-5, atol=1e-7
        )
    nodes = grid()
    run(fedhyper(mode="g+sl"), nodes, rounds=2)
    assert all("previous-update" not in m.content for m in nodes.sent)


def test_clients_move_their_own_rate():
    rate = metrics(run(fedhyper(mode="cl", growth=1.1), rounds=1), 1)["local-rate"]
    assert rate == pytest.approx(RATE * 1.1 ** (STEPS - 1))
    held = metrics(run(fedhyper(mode="cl", beta_max=RATE), rounds=1), 1)
    assert held["local-rate"] == pytest.approx(RATE)


def test_no_client_is_sent_a_rate_above_the_highest_allowed():
    nodes = grid()
    run(fedhyper(mode="sl+cl", beta_max=1.01 * RATE), nodes)
    rates = {config(m)["lr"] for m in nodes.of_type("train")}
    assert max(rates) == 1.01 * RATE


def test_each_message_has_a_config_of_its_own_and_the_callers_is_left_alone():
    nodes, mine = grid(), ConfigRecord({"lr": RATE, "note": "mine"})
    strategy = fedhyper(FedProx(proximal_mu=0.1))
    strategy.start(nodes, ArrayRecord(model().state_dict()), 2, train_config=mine)
    assert dict(mine) == {"lr": RATE, "note": "mine"}
    configs = [m.content.config_records["config"] for m in nodes.of_type("train")]
    assert len({id(c) for c in configs}) == 10
    assert all(c["note"] == "mine" and c["proximal-mu"] == 0.1 for c in configs)


def test_buffers_neither_count_nor_are_scaled():
    names = model(norm=True).state_dict()
    initial = ArrayRecord(names)
    settings: dict = {"rounds": 1, "initial": initial}
    nodes = grid(client_app(norm=True))
    mean = run(quiet(FedAvg()), nodes, **settings).arrays
    half = run(fedhyper(mode="cl", gamma_beta=1.0, alpha=0.5), nodes, **settings).arrays
    for name in initial:
        old, new, got = (tensor(record[name]).double() for record in (initial, mean, half))
        buffer = name.endswith(("running_mean", "running_var", "num_batches_tracked"))
        expected = new if buffer else old + 0.5 * (new - old)
        torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-7)
    run(fedhyper(mode="cl"), nodes, rounds=2, initial=initial)
    sent = nodes.sent[-1].content.array_records["previous-update"]
    assert set(sent) == {n for n in names if n.rpartition(".")[2] in ("weight", "bias")}


@pytest.mark.parametrize("trainable", [["0.weight"], lambda name: name == "0.weight"])
def test_trainable_entries_can_be_named(trainable):
    mean = run(quiet(FedAvg()), rounds=1).arrays
    half = run(
        fedhyper(mode="sl", gamma_beta=1.0, alpha=0.5, trainable=trainable), rounds=1
    ).arrays
    differ = {name for name in mean if bits(mean)[name] != bits(half)[name]}
    assert differ == {"0.weight"}


def test_rates_multiply_where_wrappers_stand_in_each_other():
    inner = FedExP(quiet(FedAvg()))
    both = run(FedHyper(inner, mode="sl", gamma_beta=1.0, alpha=0.5, beta=RATE), rounds=1)
    eta = metrics(both, 1)["fedexp-alpha"]
    mean = run(quiet(FedAvg()), rounds=1).arrays
    start = flat(ArrayRecord(model().state_dict()))
    expected = start + 0.5 * eta * (flat(mean) - start)
    torch.testing.assert_close(flat(both.arrays), expected, rtol=1e-6, atol=1e-7)


def test_it_goes_around_flowers_own_wrappers():
    private = DifferentialPrivacyServerSideFixedClipping(quiet(FedAvg()), 0.0, 0.1, 5)
    result = run(FedHyper(private, beta=RATE))
    assert metrics(result, 3)["fedhyper-alpha"] > 1.0


class Broken(FedAvg):
    """Raises where it should aggregate, in round two."""

    def aggregate_train(self, server_round, replies):
        if server_round == 2:
            raise RuntimeError("no space left")
        return super().aggregate_train(server_round, replies)


def test_an_error_within_passes_through_and_changes_nothing(warned):
    strategy = fedhyper(Broken(), mode="g+sl")
    with pytest.raises(RuntimeError, match="no space left"):
        run(strategy)
    after_one = fedhyper(mode="g+sl")
    run(after_one, rounds=1)
    assert own(strategy) == own(after_one)
    assert "FedHyper: round 2 failed in the wrapped strategy" in warned()


class Cautious(FedAvg):
    """Takes no new model in round two."""

    def aggregate_train(self, server_round, replies):
        model_and_metrics = super().aggregate_train(server_round, replies)
        return (None, None) if server_round == 2 else model_and_metrics


def test_a_round_that_the_strategy_within_drops_changes_nothing(warned):
    strategy, after_one = fedhyper(Cautious(), mode="g+sl"), fedhyper(mode="g+sl")
    run(strategy, rounds=2)
    run(after_one, rounds=1)
    assert own(strategy) == own(after_one)
    assert "FedHyper: round 2 brought no new model, and changed nothing" in warned()


def own(strategy: FedHyper) -> list:
    state = strategy.state_dict()["own"]
    return [
        {k: v.tolist() if isinstance(v, torch.Tensor) else v for k, v in state[rule].items()}
        for rule in ("global", "local")
    ]


def test_the_defaults_are_those_of_the_rules():
    given = {name: p.default for name, p in signature(FedHyper).parameters.items()}
    rules = {
        "alpha": (GlobalRate, "alpha"),
        "gamma_alpha": (GlobalRate, "gamma"),
        "gamma_beta": (ServerLocalRate, "gamma"),
        "growth": (ClientLocalRate, "growth"),
        "beta_max": (ClientLocalRate, "beta_max"),
    }
    for name, (rule, argument) in rules.items():
        assert given[name] == signature(rule).parameters[argument].default, name
    assert signature(ClientLocalRate).parameters["gamma"].default == given["gamma_beta"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "x"}, r"mode='x'.*joined by"),
        ({"mode": "g+g"}, r"mode='g\+g'"),
        ({"alpha": 9.0}, r"alpha=9.0.*must lie in"),
        ({"alpha": 0.0, "mode": "cl"}, r"FedHyper\(alpha=0.0\).*above 0"),
        ({"beta": -1.0}, r"beta=-1.0"),
        ({"gamma_beta": 0.5}, r"gamma=0.5"),
        ({"growth": 1.0}, r"growth=1.0"),
        ({"sl_step": "big"}, r"step='big'"),
    ],
)
def test_bad_arguments_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        FedHyper(FedAvg(), **settings)


def test_what_is_no_strategy_is_refused():
    with pytest.raises(TypeError, match=r"FedHyper\(strategy=0.1\).*must be a strategy"):
        FedHyper(0.1)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beta": 0.01}, r"beta=0.01.*lr=0.05.*beta=0.05"),
        ({"trainable": ["0.weight", "9.weight"]}, r"names \['9.weight'\]"),
        ({"trainable": lambda name: False}, "leaves nothing to train"),
    ],
)
def test_what_only_the_start_reveals_is_refused_before_any_message(settings, message):
    nodes = grid()
    with pytest.raises(ValueError, match=message):
        run(fedhyper(**settings), nodes)
    assert nodes.calls == 0
