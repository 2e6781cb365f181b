"""How tensors are cut into buckets and runs: whatever their sizes, each element once."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hdet.replica.ensemble.averaging import _RUN, _plan, _runs

# Sizes around a run's, and small ones.
SIZES = st.lists(st.integers(1, 40) | st.integers(_RUN - 2, 3 * _RUN), min_size=1, max_size=6)


@given(SIZES, st.sampled_from([2**12, 2**21]), st.sampled_from(["cpu", "meta"]))
def test_every_element_is_in_one_piece_in_order(sizes, bucket_bytes, device):
    tensors = [torch.empty(n, device=device) for n in sizes]
    buckets = list(_plan(tensors, bucket_bytes))
    assert sum(piece.numel() for pieces in buckets for piece in pieces) == sum(sizes)
    for pieces in buckets:
        assert 4 * sum(piece.numel() for piece in pieces) <= bucket_bytes
        stops = [stop for _, stop, _ in _runs(pieces)]
        starts = [start for start, _, _ in _runs(pieces)]
        assert starts == [0, *stops[:-1]]
        assert stops[-1] == sum(piece.numel() for piece in pieces)


@pytest.mark.parametrize(("device", "runs"), [("cpu", 4), ("meta", 1)])
def test_a_cpu_works_on_what_its_cache_holds_and_others_on_whole_buckets(device, runs):
    tensor = torch.empty(4 * _RUN, device=device)
    (pieces,) = _plan([tensor], 4 * tensor.numel())
    assert len(list(_runs(pieces))) == runs
