"""The cohort's balance: chosen for what it makes of the whole, and the score's draw without."""

import torch

from hdet.federated.selection import ClientReport, HeteroSelect
from hdet.federated.selection.cohort import PASSES, SHORTLIST, draw_cohort


def one_class_each(classes, copies):
    return torch.eye(classes).repeat(copies, 1) * 10


def test_a_cohort_takes_one_client_of_each_class():
    histograms = one_class_each(5, copies=4)
    keys = torch.rand(20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    chosen = draw_cohort(keys, histograms, 100.0, 5)
    assert torch.equal(histograms[chosen].sum(0), torch.full((5,), 10.0))


def test_without_weight_the_largest_keys_are_taken():
    keys = torch.tensor([0.3, 2.0, 1.0, -1.0], dtype=torch.float64)
    assert draw_cohort(keys, one_class_each(2, 2), 0.0, 3).tolist() == [1, 2, 0]


def test_the_choice_is_greedy_by_hand():
    # Everybody: 12 of class 0, 4 of class 1. Alone, client 2 is nearest to that; beside it,
    # client 3 keeps the balance and clients 0 and 1 spoil it.
    histograms = torch.tensor([[6.0, 0.0], [0.0, 2.0], [3.0, 1.0], [3.0, 1.0]])
    keys = torch.zeros(4, dtype=torch.float64)
    assert draw_cohort(keys, histograms, 1.0, 2).tolist() == [2, 3]


def test_unknown_histograms_count_as_the_mean_of_the_known():
    histograms = torch.tensor([[9.0, 1.0], [1.0, 9.0], [0.0, 0.0]])
    keys = torch.zeros(3, dtype=torch.float64)
    # Both known ones are equally far from even, and so is the mean of the two: the first of
    # equals is taken. A key that is the least bit larger decides.
    assert draw_cohort(keys, histograms, 1.0, 1).tolist() == [0]
    keys[2] = 1e-9
    assert draw_cohort(keys, histograms, 1.0, 1).tolist() == [2]


def test_nothing_known_is_the_plain_draw():
    keys = torch.tensor([0.3, 2.0, 1.0], dtype=torch.float64)
    assert draw_cohort(keys, torch.zeros(3, 1), 50.0, 2).tolist() == [1, 2]


def test_spare_clients_come_last_whatever_their_balance():
    histograms = one_class_each(3, copies=2)
    spare = torch.tensor([False, True, False, False, False, True])
    chosen = draw_cohort(torch.zeros(6, dtype=torch.float64), histograms, 1e3, 5, spare)
    assert sorted(chosen[:4].tolist()) == [0, 2, 3, 4]
    assert chosen[4] in (1, 5)


def test_a_long_list_is_cut_to_its_largest_keys():
    count = 3 * SHORTLIST
    keys = torch.arange(count, dtype=torch.float64)
    chosen = draw_cohort(keys, one_class_each(4, count // 4), 1e9, 8)
    assert int(chosen.min()) >= count - SHORTLIST
    assert torch.equal(chosen.remainder(4).bincount(), torch.full((4,), 2))


def test_a_large_cohort_is_chosen_several_at_a_time_and_balanced_all_the_same():
    count = 3 * PASSES + 7
    histograms = one_class_each(5, copies=200)
    chosen = draw_cohort(torch.zeros(1000, dtype=torch.float64), histograms, 10.0, count)
    assert len(set(chosen.tolist())) == count
    assert histograms[chosen].sum(0).max() <= 10 * (count / 5 + 4)


def test_the_selector_learns_labels_from_replies_and_balances_by_them():
    clients = list(range(40))
    selector = HeteroSelect(seed=3, w_diversity=1000.0)

    def by_class(chosen):
        return torch.tensor([i % 4 for i in chosen]).bincount(minlength=4).tolist()

    blind = by_class(selector.select(1, clients, 8))
    selector.select(2, clients, 40)
    counts = {i: [20.0 if c == i % 4 else 0.0 for c in range(4)] for i in clients}
    reports = {
        i: ClientReport(loss=1.0, num_examples=20, label_counts=counts[i]) for i in clients
    }
    selector.feedback(2, reports)
    assert blind != [2] * 4
    assert [by_class(selector.select(t, clients, 8)) for t in range(3, 9)] == [[2] * 4] * 6
