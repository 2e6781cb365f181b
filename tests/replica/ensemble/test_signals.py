import math

import pytest
import torch

from hdet.replica.ensemble.signals import Losses, LossMeter, interval_means

CPU = torch.device("cpu")


def losses(meter: LossMeter) -> Losses:
    return Losses(*meter.row(CPU).tolist())


def mean(meter: LossMeter) -> float:
    return interval_means([losses(meter)])[0]


def test_numbers_and_tensors_of_any_dtype_and_shape_make_one_mean():
    meter = LossMeter()
    for loss in (1.0, torch.tensor([[2.0]]), torch.tensor(3, dtype=torch.bfloat16), 6.0):
        meter.observe(loss)
    assert mean(meter) == 3.0


def test_a_loss_with_a_graph_is_taken_without_it():
    meter = LossMeter()
    meter.observe(torch.ones((), requires_grad=True) * 2)
    assert not meter.row(CPU).requires_grad


@pytest.mark.parametrize("value", [3, True, torch.tensor(3), torch.tensor(True), "1.0", 1j])
def test_a_number_of_epochs_is_not_taken_for_a_loss(value):
    meter = LossMeter()
    with pytest.raises(ValueError, match=r"A loss is a float.*`step\(epoch\)` is not how"):
        meter.observe(value)
    assert meter.row(CPU).tolist() == [0, 0, 0, 0]


def test_a_loss_with_several_elements_is_refused():
    with pytest.raises(ValueError, match=r"shape \(3,\).*loss.mean\(\)"):
        LossMeter().observe(torch.zeros(3))


def test_no_loss_is_nan_and_reset_begins_anew():
    meter = LossMeter()
    assert math.isnan(mean(meter))
    meter.observe(5.0)
    meter.reset()
    assert math.isnan(mean(meter))


def test_a_restored_interval_adds_up_to_the_last_bit():
    whole, first = LossMeter(), LossMeter()
    values = [0.1 * k**1.5 for k in range(20)]
    for value in values:
        whole.observe(value)
    for value in values[:9]:
        first.observe(value)
    resumed = LossMeter()
    total, count = first.sums()
    resumed.restore(total, int(count))
    for value in values[9:]:
        resumed.observe(value)
    assert mean(resumed) == mean(whole)
    assert resumed.sums() == whole.sums()


def test_replicas_compare_the_same_steps_where_only_one_restored_its_sum():
    other, restored = LossMeter(), LossMeter()
    restored.restore(300.0, 3)
    for meter in (other, restored):
        meter.observe(1.0)
        meter.observe(3.0)
    assert interval_means([losses(restored), losses(other)]) == [2.0, 2.0]


def test_replicas_that_all_restored_use_the_whole_interval():
    meters = [LossMeter(), LossMeter()]
    for meter in meters:
        meter.restore(4.0, 1)
        meter.observe(2.0)
    assert interval_means([losses(m) for m in meters]) == [3.0, 3.0]
