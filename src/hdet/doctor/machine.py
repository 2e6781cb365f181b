"""What a process runs on: versions, device and settings, and a test of the all-reduce."""

import os
import platform
import re
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, requires, version
from statistics import median
from typing import Any

import torch
import torch.distributed as dist

from ..replica.ensemble.buckets import BUCKET_BYTES

# Of what changes how processes compute or talk.
_SETTINGS = ("OMP_NUM_THREADS", "NCCL_", "TORCH_NCCL_", "GLOO_")
# Of these, what names a process's own network device, file or machine.
_OWN = ("_IB_HCA", "_SOCKET_IFNAME", "_FILE", "_HOSTID")
# What launchers other than torchrun call the number of processes that they have started.
_STARTED = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")
_REPEATS = 5


def versions() -> dict[str, str]:
    """Return the versions of Python, torch, hdet, and what hdet's extras name. Local."""
    found = {
        "Python": platform.python_version(),
        "torch": str(torch.__version__),
        "hdet": version("hdet"),
    }
    needs = [need for need in requires("hdet") or () if "extra ==" in need]
    for name in sorted({re.split(r"[^\w.-]", need)[0] for need in needs}):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def settings() -> dict[str, str]:
    """Return the environment variables that have to be the same everywhere. Local."""
    names = [key for key in sorted(os.environ) if key.startswith(_SETTINGS)]
    return {key: os.environ[key] for key in names if not key.endswith(_OWN)}


def take_device() -> torch.device:
    """Return this process's device, which becomes torch's current one. Local.

    Raises:
        RuntimeError: if the launcher has started more processes than there are devices.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    index, count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if count == 1:
        # A launcher may show each process its own; that no two share one is looked at later.
        index = 0
    if index >= count:
        raise RuntimeError(
            f"LOCAL_RANK={index}, and this machine shows {count} CUDA devices: start one "
            f"process for each device, as by --nproc-per-node {count}"
        )
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


def place(device: torch.device) -> dict[str, str]:
    """Return the machine and the device of this process, and what moves data there. Local."""
    backends = dict(pair.split(":") for pair in dist.get_backend_config().split(","))
    cuda = torch.cuda.get_device_properties(device) if device.type == "cuda" else None
    return {
        "machine": socket.gethostname(),
        "device": cuda.name if cuda else device.type,
        "uuid": str(getattr(cuda, "uuid", "")),
        "backend": backends.get(device.type, ""),
    }


def started_alone() -> str | None:
    """Return what is wrong where a launcher has started others that this one cannot know."""
    for key in _STARTED:
        if int(os.environ.get(key) or "1") > 1:
            return (
                f"{key}={os.environ[key]}, and RANK and WORLD_SIZE are not set: each of these "
                f"processes would train alone. Start them through torchrun"
            )
    return None


def all_reduce(device: torch.device) -> dict[str, Any]:
    """Sum over all processes, and time it. Collective.

    Returns:
        Whether the sum is `right`, the `milliseconds` of four bytes and of a bucket, and the
        bucket's `bytes`.
    """
    size = dist.get_world_size()
    one = torch.full((1,), dist.get_rank() + 1.0, device=device)
    dist.all_reduce(one)
    right = float(one) == size * (size + 1) / 2
    bucket = torch.zeros(BUCKET_BYTES // 4, device=device)
    return {
        "right": right,
        "latency": _milliseconds(lambda: dist.all_reduce(one), device),
        "milliseconds": _milliseconds(lambda: dist.all_reduce(bucket), device),
        "bytes": BUCKET_BYTES,
    }


def _milliseconds(call: Callable[[], object], device: torch.device) -> float:
    """Return the median time of a call, after one that does not count."""
    times = []
    for _ in range(1 + _REPEATS):
        began = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(1e3 * (time.perf_counter() - began))
    return median(times[1:])
