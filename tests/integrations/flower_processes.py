"""Flower in processes of its own on loopback, of which nothing remains afterwards."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from pathlib import Path

APP = Path(__file__).parents[2] / "examples" / "fedhyper_flower"
MARK = "HDET_TEST_RUN"
# A node that is silent for two of its heartbeats is taken for dead: not after Flower's minute.
SUPERNODE = """
from flwr.common import constant
constant.HEARTBEAT_DEFAULT_INTERVAL = 15
from flwr.supernode.cli import flower_supernode
flower_supernode()
"""


class Flower:
    """A SuperLink, and what is started beside it; a context manager.

    Args:
        simulation: whether the SuperLink simulates its nodes, by Ray.
    """

    def __init__(self, simulation: bool) -> None:
        # Not pytest's folder: the paths of Ray's sockets must be short.
        self.home = Path(tempfile.mkdtemp(prefix="hdet-"))
        self.address = f"127.0.0.1:{free_port()}"
        self._simulation = ["--simulation"] if simulation else []
        self._mark = uuid.uuid4().hex
        self._started: list[subprocess.Popen] = []
        binaries = Path(sys.executable).parent
        self._environment = {
            **os.environ,
            MARK: self._mark,
            "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}",
            "FLWR_HOME": str(self.home),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_TMPDIR": str(self.home),
            "OMP_NUM_THREADS": "1",
        }

    def __enter__(self) -> "Flower":
        host, port = self.address.split(":")
        settings = ["--insecure", "--disable-runtime-dependency-installation"]
        where = ["--host", host, "--port", port]
        try:
            self._start("superlink", "flower-superlink", *settings, *self._simulation, *where)
            self._wait_for_superlink()
        except BaseException:
            self.__exit__()
            raise
        (self.home / "config.toml").write_text(
            '[superlink]\ndefault = "here"\n'
            f'[superlink.here]\naddress = "{self.address}"\ninsecure = true\n'
        )
        shutil.copytree(APP, self.home / "app", ignore=shutil.ignore_patterns("__pycache__"))
        return self

    def __exit__(self, *exception: object) -> None:
        for process in self._started:
            kill_group(process.pid)
        # SuperExec and Ray start sessions of their own, which carry our mark all the same.
        while left := self._marked():
            for pid in left:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)
        for process in self._started:
            process.wait()
        shutil.rmtree(self.home, ignore_errors=True)

    def supernode(self, partition: int, of: int) -> subprocess.Popen:
        """Start a SuperNode in a session of its own."""
        host, port = "127.0.0.1", str(free_port())
        return self._start(
            f"supernode-{partition}",
            "python",
            *("-c", SUPERNODE),
            "--insecure",
            *("--superlink", self.address, "--host", host, "--port", port),
            *("--node-config", f"partition-id={partition} num-partitions={of}"),
        )

    def run(self, config: str, federation: str | None = None) -> subprocess.Popen:
        """Start a run of the example; its log is `log("run")`."""
        more = [] if federation is None else ["--federation-config", federation]
        app = str(self.home / "app")
        return self._start("run", "flwr", "run", app, "--stream", "--run-config", config, *more)

    def log(self, name: str) -> str:
        """Return what a process has printed."""
        return (self.home / f"{name}.log").read_text(errors="replace")

    def wait_for_file(self, name: str, timeout: float) -> None:
        """Wait until one of the processes has made a file in `home`."""
        end = time.monotonic() + timeout
        while not (self.home / name).exists():
            said = self.log("run")[-3000:]
            assert time.monotonic() < end, f"nobody has made {name!r}:\n{said}"
            exited = [p.args for p in self._started if p.poll() is not None]
            assert not exited, f"{exited} ended early; the run said:\n{said}"
            time.sleep(0.1)

    def _start(self, name: str, program: str, *arguments: str) -> subprocess.Popen:
        with (self.home / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [str(Path(sys.executable).parent / program), *arguments],
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.home,
                env=self._environment,
                start_new_session=True,
            )
        self._started.append(process)
        return process

    def _wait_for_superlink(self) -> None:
        end = time.monotonic() + 90
        while time.monotonic() < end:
            with contextlib.suppress(urllib.error.URLError, OSError):
                urllib.request.urlopen(f"http://{self.address}/health", timeout=1)
                return
            time.sleep(0.3)
        raise TimeoutError(f"no SuperLink at {self.address}:\n{self.log('superlink')[-3000:]}")

    def _marked(self) -> list[int]:
        """Return the processes that this object's processes have started and that still run."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if f"{MARK}={self._mark}".encode() in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
        return found


def free_port() -> int:
    """Return a port that is free now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def kill_group(pid: int) -> None:
    """Kill a process and those of its session that stayed in it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
