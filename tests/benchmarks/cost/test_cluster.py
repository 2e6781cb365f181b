"""The cost of a sync on a large cluster: by hand, and at its limits."""

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.cost import cluster as large
from benchmarks.cost import model, tables

CLUSTER = large.Cluster()


def test_a_replica_is_whole_or_there_is_none():
    for gpus, shards, replicas in ((64, 8, 8), (64, 64, 1), (8, 64, 0), (96, 64, 0)):
        assert large.Plan(10**9, gpus, shards).replicas == replicas


def test_half_precision_travels_as_float32():
    both = [large.sync(large.Plan(10**9, 64, kept=kept), CLUSTER) for kept in (2, 4)]
    assert both[0].wire == both[1].wire
    assert both[0].check < both[1].check


def test_the_wire_of_a_cluster_by_hand():
    """1B parameters, 64 GPUs: 4 GB over NVLink, an eighth of it over the network."""
    wire = large.sync(large.Plan(10**9, 64), CLUSTER).wire
    # A ring of 8 inside; for buckets of this size trees of 8 nodes, which save hops.
    hops = 4e9 / model.BUCKET_BYTES * (14 * 5e-6 + 6 * 10e-6)
    assert wire == pytest.approx(1.75 * 4e9 / 360e9 + 2 * 0.5e9 / 40e9 + hops, rel=0.01)


def test_only_a_shard_is_averaged():
    whole = large.Plan(64 * 10**9, 512, 8)
    assert whole.elements == 8 * 10**9
    halved = large.Plan(64 * 10**9, 1024, 16)
    assert halved.replicas == whole.replicas
    ratio = large.sync(halved, CLUSTER).wire / large.sync(whole, CLUSTER).wire
    assert ratio == pytest.approx(0.5, rel=0.01)


def test_state_is_averaged_like_parameters():
    plans = [large.Plan(10**9, 64, state=state) for state in (0, 2)]
    ratio = large.sync(plans[1], CLUSTER).wire / large.sync(plans[0], CLUSTER).wire
    assert ratio == pytest.approx(3, rel=0.01)


def test_one_replica_sends_nothing_and_a_sync_is_no_shorter_than_its_longest_part():
    alone = large.sync(large.Plan(10**9, 1), CLUSTER)
    assert alone.wire == alone.gathers == alone.roll_call == 0
    for plan in (large.Plan(10**9, 64), large.Plan(70 * 10**9, 1024, 64)):
        cost = large.sync(plan, CLUSTER)
        assert cost.seconds >= max(cost.wire, cost.copies, cost.host)


@given(gpus=st.integers(1, 512), more=st.integers(1, 64), billions=st.integers(1, 10))
def test_more_replicas_and_more_parameters_cost_no_less(gpus, more, billions):
    def seconds(parameters, gpus):
        return large.sync(large.Plan(parameters, gpus * 8, 8), CLUSTER).seconds

    now = seconds(billions * 10**9, gpus) * (1 - 1e-9)
    assert seconds(billions * 10**9, gpus + more) >= now
    assert seconds((billions + 1) * 10**9, gpus) >= now


# --- against a step, and Explorer's own


def test_a_step_and_a_probe_by_hand():
    plan = large.Plan(10**9, 8)
    step = large.step_seconds(plan, CLUSTER)
    assert step == pytest.approx(6e9 * 8192 / (0.4 * 989e12))
    assert large.probe_seconds(plan, CLUSTER) == pytest.approx(step / 3)
    assert large.probe_seconds(plan, CLUSTER, batches=6) == pytest.approx(2 * step)


@given(
    sync=st.floats(1e-4, 100), step=st.floats(1e-2, 100), share=st.sampled_from([0.01, 0.001])
)
def test_the_interval_is_the_smallest_that_will_do(sync, step, share):
    interval = large.interval_for(share, sync, step)
    now = large.overhead(sync, interval, step)
    assert now <= share * (1 + 1e-9)
    assert large.overhead(sync, 2 * interval, step) == pytest.approx(now / 2)
    if interval > 1:
        assert large.overhead(sync, interval - 1, step) > share * (1 - 1e-9)


def test_averaged_weights_by_hand():
    # float32: aside 2, between 3 and 2, back 2, update 3: twelve passes of 4 bytes.
    assert large.averaged_weights_traffic(4) == 12 * 4
    # bfloat16: aside 4, widened 6, between 12, copied in 6, back 4, widened 6, update 12.
    assert large.averaged_weights_traffic(2) == 50


def test_memory_by_hand():
    found = large.memory(large.Plan(80, 8, 8, kept=2))
    assert found == large.Memory(training=120, buckets=40, average=40, probe=20)
    whole = large.memory(large.Plan(10**9, 8))
    assert whole.buckets == 2 * model.BUCKET_BYTES


def test_the_tables_have_figures_where_there_are_two_replicas():
    record = json.loads(json.dumps(tables.tables(CLUSTER)))
    assert len(record["rows"]) == len(tables.MODELS) * len(tables.GPUS)
    for row in record["rows"]:
        assert ("seconds" in row) == (row["gpus"] >= 2 * row["shards"])
        for share, interval in zip(record["shares"], row.get("interval", []), strict=False):
            assert large.overhead(row["seconds"], interval, row["step"]) <= share
    assert len(record["assumptions"]) == len(dataclasses.fields(CLUSTER))
    for one in record["assumptions"]:
        assert one["what"]
        assert one["source"] in (large.NOMINAL, large.ASSUMED)
