"""Which of the other processes have ended: found out without their help.

A process that has ended and one that is busy are both silent. To tell them apart, each keeps a
listening socket that it never reads, and leaves its address in the process group's store. A
process that waits for another connects to it: the operating system accepts the connection,
however busy the process is, and resets it when the process ends, however it ends. So one that
compiles, or loads data for minutes, is never taken for dead, and a dead one is known at once.

What is not certain counts as alive: an address that cannot be reached, or a connection that
another machine refuses, since a firewall may have done it.
"""

import errno
import os
import socket
import uuid
from collections.abc import Iterable
from pathlib import Path

import torch.distributed as dist
from torch._C._distributed_c10d import Store


class Liveness:
    """Lets the others see this process, and sees them, through the process group's store."""

    def __init__(self, store: Store) -> None:
        self.world = dist.group.WORLD
        self._store = store
        self._machine = _machine()
        # By rank: the connection, and whether it stays on this machine.
        self._watched: dict[int, tuple[socket.socket, bool]] = {}
        self._listening = socket.create_server(("", 0), backlog=1024)
        port = self._listening.getsockname()[1]
        store.set(_key(dist.get_rank()), f"{self._machine} {_address()} {port}")

    def close(self) -> None:
        """Close this process's sockets; the others notice nothing if it is a child."""
        for one in (self._listening, *(one for one, _ in self._watched.values())):
            one.close()
        self._watched.clear()

    def watch(self, rank: int, only_afar: bool = False) -> None:
        """Begin to watch a rank of the default process group. Local.

        With `only_afar` not one on this machine, whose end the system also knows afterwards.
        """
        if rank in self._watched or not self._store.check([_key(rank)]):
            return
        machine, address, port = self._store.get(_key(rank)).decode().split(" ")
        near = machine == self._machine
        if near and only_afar:
            return
        one = socket.socket()
        one.setblocking(False)
        try:
            code = one.connect_ex(("127.0.0.1" if near else address, int(port)))
        except OSError:  # a name that is not known here
            code = errno.EHOSTUNREACH
        if code in (0, errno.EINPROGRESS):
            self._watched[rank] = one, near
            return
        one.close()
        if near and code == errno.ECONNREFUSED:
            self._report(rank)

    def ended(self, ranks: Iterable[int]) -> list[int]:
        """Return those of `ranks` that are known to have ended. Local; waits for nobody."""
        found = []
        for rank in ranks:
            self.watch(rank)
            if rank in self._watched and self._is_over(rank):
                self._report(rank)
            if self._store.check([_key(rank) + "/ended"]):
                found.append(rank)
        return found

    def _is_over(self, rank: int) -> bool:
        one, near = self._watched[rank]
        try:
            return one.recv(1) == b""
        except ConnectionRefusedError:
            over = near
        except ConnectionResetError:
            over = True
        except BlockingIOError:
            return False
        except OSError:  # it cannot be reached
            over = False
        one.close()
        del self._watched[rank]
        return over

    def _report(self, rank: int) -> None:
        """Tell those who cannot see it from where they are."""
        self._store.set(_key(rank) + "/ended", "")


_current: Liveness | None = None


def appear(store: Store) -> Liveness:
    """Let the others see this process from now on; return what sees them. Local."""
    global _current
    if _current is None or _current.world is not dist.group.WORLD:
        _close()
        _current = Liveness(store)
    return _current


def _close() -> None:
    global _current
    if _current is not None:
        _current.close()
        _current = None


# A child, such as a data loader's worker, would keep its parent's socket open.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close)


def _key(rank: int) -> str:
    return f"hdet/process/{rank}"


def _machine() -> str:
    """Return what only processes that share their loopback address have in common."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.readlink('/proc/self/ns/net')}"
    except OSError:
        return f"{socket.gethostname()}/{uuid.getnode()}"


def _address() -> str:
    """Return the address at which the other machines reach this one."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
            # Sends nothing: it asks by which of its addresses this machine gets there.
            one.connect((os.environ.get("MASTER_ADDR", ""), 1))
            return one.getsockname()[0]
    except OSError:
        return socket.gethostname()
