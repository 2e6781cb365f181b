"""What is averaged of a tensor; DTensors are known without importing their module."""

import subprocess
import sys

import torch

from hdet.replica.ensemble.contents import local_floats

RUN = """
import sys, torch, hdet
hdet.Explorer, hdet.OneCycleAutoLR, hdet.federated, hdet.bilevel
layer = torch.nn.Linear(2, 2)
hdet.add_noise_(layer)
hdet.average_(layer.parameters(), model=layer)
print("torch.distributed.tensor" in sys.modules)
"""


def test_the_module_of_dtensors_is_not_loaded_where_there_are_none():
    command = [sys.executable, "-c", RUN]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert run.stdout == "False\n"


def test_floats_are_averaged_once_and_anything_else_is_left_out():
    shared = torch.ones(2)
    pair = torch.ones(3, dtype=torch.complex64)
    others = [torch.ones(2, dtype=torch.int64), torch.ones(0), torch.tensor(True)]
    found = local_floats([shared, *others, pair, shared, torch.ones(2, dtype=torch.bfloat16)])
    assert [t.shape for t in found] == [(2,), (3, 2), (2,)]
    assert found[0] is shared
