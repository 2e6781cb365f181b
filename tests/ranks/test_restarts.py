"""A process is killed under torchrun: the example goes on from its last checkpoint."""

import io
import os
import runpy
import subprocess
import sys
import threading
from contextlib import redirect_stdout
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch.distributed as dist
from torch._C._distributed_c10d import TCPStore

from tests.rank_runner import run_ranks

pytestmark = [pytest.mark.ranks, pytest.mark.slow]

SCRIPT = Path(__file__).parent / "doomed_example.py"
EXAMPLE = Path(__file__).parents[2] / "examples" / "ddp.py"
# torch 2.13 shares its store between the attempts, and gloo then looks for the dead.
ENVIRONMENT = os.environ | {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1", "OMP_NUM_THREADS": "1"}


def _start(options, folder, *arguments):
    command = [sys.executable, "-m", "torch.distributed.run", *options, str(SCRIPT)]
    command += [str(folder / "checkpoint.pt"), str(folder / "marker"), *arguments]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
        start_new_session=True,
    )


def _lines(process, seconds=300):
    out, err = process.communicate(timeout=seconds)
    assert process.returncode == 0, err[-3000:]
    return out.splitlines()


def _never_killed(folder):
    """Run the example in the process group that there is; return what it prints."""
    main = runpy.run_path(str(EXAMPLE))["main"]
    main.__globals__["dist"] = SimpleNamespace(
        get_rank=dist.get_rank,
        init_process_group=lambda _: None,
        destroy_process_group=lambda: None,
    )
    with redirect_stdout(io.StringIO()) as out:
        main(folder / "checkpoint.pt")
    return out.getvalue().splitlines()


@pytest.mark.timeout(600)
def test_a_killed_run_ends_as_one_that_was_never_killed_to_the_last_bit(tmp_path):
    three = ["--standalone", "--nproc-per-node", "3", "--max-restarts", "2"]
    (tmp_path / "killed").mkdir()
    killed = _lines(_start(three, tmp_path / "killed", "2", "137", "process"))
    assert (tmp_path / "killed" / "marker").exists()
    whole = run_ranks(_never_killed, 3, tmp_path)[0]
    # It went on from step 100, and did what follows anew.
    assert [line.split(":")[0] for line in whole if "step" in line] == [
        f"step {t}" for t in range(50, 301, 50)
    ]
    assert killed == whole
    assert whole[-1].startswith("held-out loss 0.")


@pytest.mark.timeout(400)
def test_a_run_goes_on_with_the_nodes_that_are_left(tmp_path):
    # The meeting point is here, since any of the nodes may be the one that dies.
    store = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    # On a busy machine a node may be late to the first meeting, or to say that it is alive.
    quick = "is_host=false,last_call_timeout=8,keep_alive_interval=1,keep_alive_max_attempt=12"
    nodes = [
        "--nnodes=2:3",
        "--nproc-per-node=1",
        "--max-restarts=3",
        "--rdzv-backend=c10d",
        f"--rdzv-endpoint=localhost:{store.port}",
        f"--rdzv-conf={quick}",
    ]
    agents = [_start(nodes, tmp_path, "2", "137", "node") for _ in range(3)]
    said = {}

    def read(k):
        said[k] = agents[k].communicate()

    readers = [threading.Thread(target=read, args=(k,)) for k in range(3)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(370)
    codes = sorted(agent.returncode for agent in agents)
    errors = "\n".join(err[-1500:] for _, err in said.values())
    assert codes == [-9, 0, 0], errors
    lines = "".join(out for out, _ in said.values()).splitlines()
    rates = {
        line.split(":")[0]: line.split("rates ")[1].split(", ")
        for line in lines
        if "rates" in line
    }
    assert len(rates["step 100"]) == 3
    assert len(rates["step 300"]) == 2
    for row in rates.values():
        values = sorted(float(rate) for rate in row)
        assert values[0] + values[-1] == pytest.approx(2 * sum(values) / len(values), rel=0.02)
    assert any(line.startswith("held-out loss") for line in lines)
