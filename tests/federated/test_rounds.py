"""Rounds within one process, with clients whose answers are known."""

import torch

from hdet.federated import Decay, FedExP, GlobalRate, ServerLocalRate
from hdet.federated.rounds import Reply, Rounds
from hdet.federated.selection import ClientReport, PowerOfChoice, Random
from hdet.federated.server_optimizers import FedAvg, FedAvgM

START = torch.tensor([1.0, -2.0], dtype=torch.float64)


class Pulling:
    """Each client pulls the weights towards its own target by one gradient step."""

    def __init__(self, failing=()):
        self.orders, self.probed, self.failing = [], [], set(failing)

    def train(self, ids, order):
        self.orders.append(order)
        return {
            i: Reply(
                order.rate * (self.target(i) - order.weights),
                ClientReport(loss=float(i + 1), num_examples=i + 1),
            )
            for i in reversed(ids)
            if (order.round, i) not in self.failing
        }

    def probe(self, ids, order):
        self.probed.append(list(ids))
        return {i: ClientReport(loss=float(i), num_examples=i + 1) for i in ids}

    @staticmethod
    def target(i):
        return torch.tensor([float(i), 1.0], dtype=torch.float64)


def rounds(clients, count=3, **options):
    options = {"selector": Random(), "server": FedAvg(), "local_rate": 0.5} | options
    return Rounds(START, clients, range(4), count, **options)


def test_fedavg_is_the_mean_weighted_by_examples():
    run = rounds(Pulling(), count=4)
    run.run_round()
    targets = torch.stack([Pulling.target(i) for i in range(4)])
    shares = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64) / 10
    expected = START + 0.5 * (shares @ (targets - START))
    assert torch.allclose(run.weights, expected, atol=1e-15)


def test_equal_shares_are_the_plain_mean():
    run = rounds(Pulling(), count=4, shares=lambda replies: [1.0] * len(replies))
    run.run_round()
    assert torch.allclose(run.weights, START + 0.5 * (torch.tensor([1.5, 1.0]) - START))


def test_gamma_one_is_fedavg_bit_for_bit():
    plain = rounds(Pulling())
    held = rounds(
        Pulling(),
        global_rate=GlobalRate(gamma=1.0),
        local_rate=ServerLocalRate(0.5, gamma=1.0),
    )
    for _ in range(5):
        plain.run_round()
        held.run_round()
        assert torch.equal(plain.weights, held.weights)


def test_alpha_scales_the_servers_step_whatever_it_is():
    momentum, scaled = FedAvgM(momentum=0.5), FedAvgM(momentum=0.5)
    one = rounds(Pulling(), server=momentum)
    two = rounds(Pulling(), server=scaled, global_rate=0.5)
    one.run_round()
    two.run_round()
    assert torch.allclose(two.weights - START, 0.5 * (one.weights - START))


def test_the_new_beta_reaches_the_next_rounds_order():
    clients = Pulling()
    rate = ServerLocalRate(0.5)
    run = rounds(clients, local_rate=rate)
    run.run_round()
    run.run_round()
    moved = rate.beta
    assert moved != 0.5
    run.run_round()
    assert [order.rate for order in clients.orders] == [0.5, 0.5, moved]


def test_orders_carry_the_raw_mean_update_of_the_last_round():
    clients = Pulling()
    run = rounds(clients, send_update=True, global_rate=2.0)
    run.run_round()
    after = run.weights
    run.run_round()
    assert clients.orders[0].previous_update is None
    assert torch.allclose(2.0 * clients.orders[1].previous_update, after - START)


def test_a_round_without_replies_changes_nothing():
    clients = Pulling(failing=[(2, i) for i in range(4)])
    rate = GlobalRate()
    run = rounds(clients, global_rate=rate, send_update=True)
    run.run_round()
    before, state = run.weights, rate.state_dict()
    outcome = run.run_round()
    assert outcome.reports == {}
    assert (outcome.alpha, outcome.hypergradient) == (0.0, 0.0)
    assert run.weights is before
    run.run_round()
    assert torch.equal(clients.orders[2].previous_update, state["previous"])


def test_both_rules_follow_one_hypergradient_and_their_states_are_the_runs():
    def rules():
        return {"global_rate": GlobalRate(), "local_rate": ServerLocalRate(0.5)}

    first, second = rules(), rules()
    whole = rounds(Pulling(), **first)
    whole.run_round()
    before = whole.weights
    for name, rule in second.items():
        rule.load_state_dict(first[name].state_dict())
    resumed = Rounds(
        before, Pulling(), range(4), 4, selector=Random(), server=FedAvg(), **second
    )
    rest = rounds(Pulling(), count=4, **first)
    rest.weights = before
    for _ in range(3):
        one, other = resumed.run_round(), rest.run_round()
        assert (one.alpha, one.beta) == (other.alpha, other.beta)
        assert torch.equal(resumed.weights, rest.weights)
    assert first["local_rate"].previous_update is None
    assert first["global_rate"].previous_update is not None


def test_those_who_failed_are_left_out_of_the_mean():
    failing = [(1, 0), (1, 1), (1, 3)]
    run = rounds(Pulling(failing), count=4)
    run.run_round()
    assert torch.equal(run.weights, START + 0.5 * (Pulling.target(2) - START))


def test_selection_is_probed_first_and_told_afterwards():
    clients = Pulling()
    run = rounds(clients, count=2, selector=PowerOfChoice(candidates=4))
    outcome = run.run_round()
    assert clients.probed == [[0, 1, 2, 3]]
    assert outcome.probed == 4
    assert outcome.selected == [2, 3]


def test_fedexp_is_evaluated_at_the_mean_of_the_last_two_iterates():
    run = rounds(Pulling(), global_rate=FedExP())
    run.run_round()
    before = run.weights
    outcome = run.run_round()
    assert outcome.alpha >= 1.0
    assert torch.equal(run.eval_weights, (before + run.weights) / 2)


def test_decay_of_either_rate_starts_at_its_full_value():
    clients = Pulling()
    run = rounds(clients, local_rate=Decay(0.5, 0.5), global_rate=Decay(1.0, 0.1))
    alphas = [run.run_round().alpha for _ in range(2)]
    assert alphas == [1.0, 0.1]
    assert [order.rate for order in clients.orders] == [0.5, 0.25]


def test_an_update_that_is_not_finite_is_left_out():
    class Broken(Pulling):
        def train(self, ids, order):
            replies = dict(super().train(ids, order))
            broken = replies[3]
            return replies | {3: Reply(broken.delta * float("nan"), broken.report)}

    run = rounds(Broken(), count=4, global_rate=GlobalRate())
    without = rounds(Pulling(failing=[(1, 3)]), count=4, global_rate=GlobalRate())
    assert set(run.run_round().reports) == {0, 1, 2}
    without.run_round()
    assert torch.equal(run.weights, without.weights)


def test_a_failed_round_is_repeated_at_its_rate():
    clients = Pulling(failing=[(1, i) for i in range(4)])
    run = rounds(clients, local_rate=Decay(0.5, 0.5))
    for _ in range(3):
        run.run_round()
    assert [order.rate for order in clients.orders] == [0.5, 0.5, 0.25]
