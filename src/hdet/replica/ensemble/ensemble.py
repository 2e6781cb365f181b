"""The replicas of a run as one object: they gather what each has seen, and are averaged.

A sync is two calls. `gather` begins with a roll call, so that a process that does not come is
an error and not a silence. Then one small collective follows (losses, whether the weights are
finite, their layout), and another where tensors differ that no optimizer steps. `average`
averages, and gathers what that has measured. The caller decides from step counts alone when
they are called, so that every rank does the same.

Source: HDET (arXiv 2604.24708), equations (3) and (4).
"""

import math
import time
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ...errors import where
from ...state import Entries
from .agreement import Facts, digest, refuse_difference
from .averaging import Averaging, check_health, check_layout, divergences
from .gathered import Gathered
from .groups import Replicas
from .history import History
from .holdings import Holdings
from .meshes import reshard
from .optimizer_state import all_state, overflows
from .outsiders import Outsiders
from .rate_effect import RateEffect
from .report import decode, encode, summarise
from .roll_call import RollCall
from .signals import LossMeter
from .stepping import Stepping

SYNC = "the sync"


class Ensemble:
    """N replicas that part and meet again.

    Args:
        optimizer: its parameters, and the state that depends on them, are averaged.
        model: its floating-point buffers, and parameters that are not the optimizer's, are
            averaged too where they differ; FSDP2's gathered copies of what has changed are
            dropped.
        replicas: who they are.
        name: the public name to put into errors.
        average_state: whether all optimizer state differs between replicas, and is averaged;
            else only what depends on the weights.
        facts: returns what has to be the same on every replica; see `agreement`.

    Attributes:
        meter: this process's losses since the last sync; whoever syncs resets it.
        history: the syncs so far.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        model: nn.Module | None,
        replicas: Replicas,
        name: str,
        average_state: bool = False,
        facts: Callable[[], Facts] = dict,
    ) -> None:
        self.replicas = replicas
        self.average_state = average_state
        self.meter = LossMeter()
        self.history = History(replicas)
        self.size = replicas.size
        self._note_world()
        self._optimizer = optimizer
        self._model = model
        self._name = name
        self._facts = facts
        self._stepping = Stepping(optimizer, name)
        self._roll_call = RollCall(replicas, name)
        self._holdings = Holdings(optimizer, model, average_state)
        self._outsiders = Outsiders(self._holdings.outsiders)
        self._effect = RateEffect(optimizer, name)
        self._pending: _Pending | None = None
        self._saves, self._warned_of_saving = 0, False
        self._gathered_sums: list | None = None  # of all processes, inside `converged`

    # --- before a sync

    def counts(self, skipped: bool | None) -> bool:
        """Return whether a step of the scheduler counts; if not, its losses are dropped. Local.

        Raises a `RuntimeError` inside `converged()`, or where the calls of the scheduler and of
        the optimizer do not match; see `Stepping`.
        """
        self.require_connection()
        if self._gathered_sums is not None:
            raise RuntimeError(
                f"{where()}`{self._name}.step` was called inside a `converged()` block, where "
                f"all replicas are one: leave the block before training goes on."
            )
        self._effect.begin()
        took_place = self._stepping.took_place(skipped)
        if not took_place:
            self.meter.drop()
        return took_place

    @property
    def is_converged(self) -> bool:
        """Whether all replicas are one now, inside `converged()`."""
        return self._gathered_sums is not None

    def require_connection(self) -> None:
        """Raise a `RuntimeError` unless the replicas are those it was made for. Local."""
        if self._world is not None and self.replicas.world is self._world():
            return  # The usual step ends here: to ask the group for its size takes longer.
        if self.replicas.size != self.size:
            raise RuntimeError(
                f"{where()}`{self._name}` was made for {self.size} replicas, and the process "
                f"group now has {self.replicas.size}: make it after "
                f"torch.distributed.init_process_group, and use it before the group is "
                f"destroyed."
            )
        if not self.replicas.connected and self.size > 1:
            raise RuntimeError(
                f"`{self._name}(world_size={self.replicas.size})` has no process group to "
                f"average over: call torch.distributed.init_process_group first, and start "
                f"the script with torchrun."
            )
        self._note_world()

    def _note_world(self) -> None:
        world = self.replicas.world
        # Weakly: a process group that was destroyed goes.
        self._world = None if world is None else weakref.ref(world)
        self.rank = self.replicas.rank

    def appear(self, takes_part: bool) -> None:
        """Let the others see whether this process has ended, or never takes part. Local."""
        if takes_part:
            self._holdings.appear()
        if self.replicas.connected and self.replicas.size > 1:
            self._roll_call.appear(takes_part)

    def assemble(self, call: str, step: int) -> None:
        """Wait until every process has come to `call` at `step`; raise if one does not."""
        self.require_connection()
        self._roll_call.assemble(call, step, self._holdings.device())

    def introduce(self, step: int) -> None:
        """Raise on every rank unless the replicas' settings are the same. Collective."""
        self._holdings.require_parameters(self._name)
        call = "the first step since it was made or loaded,"
        self.assemble(call, step)
        mine = torch.tensor([digest(self._facts()), 1.0], dtype=torch.float64)
        with self._roll_call.explained(call, step):
            rows = self._exchange(mine.to(self._holdings.device()))
        self._refuse_difference([row[0] / row[1] for row in rows], f"step {step}")

    # --- a sync

    @torch.no_grad()
    def gather(
        self,
        step: int,
        call: str = SYNC,
        *,
        probe: float | Tensor = math.nan,
        differing: Sequence[int] = (),
        recoverable: bool = False,
    ) -> Gathered:
        """Return what the replicas have to tell each other. Collective; `average` follows.

        Args:
            step: optimizer steps so far.
            call: what makes the replicas meet.
            probe: this replica's loss on the common probe batch; NaN for none.
            differing: the parameter groups whose rates differed between the replicas.
            recoverable: whether the caller can go on where no replica is finite.

        Raises:
            ValueError: on every rank, if the replicas' tensors or settings differ.
            RuntimeError: if a process does not come or is at another step; on every rank, if
                no replica is finite and that is not recoverable, or the rates had no effect.
        """
        began = time.perf_counter()
        self.assemble(call, step)
        device = self._holdings.device()
        view = self._outsiders.look(device)
        averaging = Averaging(self._holdings.insiders(), self.replicas, device=device)
        health = averaging.health(view)
        if recoverable and overflows(self._optimizer):
            health[0] += 1
        row = encode(
            health,
            self.meter.row(device),
            probe=probe,
            step=step,
            facts=digest(self._facts()),
            saves=self._saves,
            effect=self._effect.row(differing, device),
        )
        with self._roll_call.explained(call, step):
            reports = decode(self._exchange(row))
            healths = [report.health for report in reports]
            check_layout(healths)
            self._refuse_other_steps([report.step for report in reports])
            self._refuse_difference([r.facts for r in reports], f"{call} at step {step}")
            outsiders, odd = view.settle([h.outsiders for h in healths], self.replicas, device)
            effects = [report.effect for report in reports]
            self._effect.refuse_none(differing, effects, self.replicas, device)
        self._warn_of_saving([report.saves for report in reports])
        broken = sorted({r for r, health in enumerate(healths) if health.nonfinite > 0} | odd)
        if len(broken) < len(reports) or not recoverable:
            check_health(healths, odd)
        gathered = summarise(reports, broken)
        self._pending = _Pending(gathered, averaging, outsiders, began, (call, step))
        return gathered

    @torch.no_grad()
    def average(
        self, leave_out: Sequence[int] = (), kept: list[tuple[Tensor, Tensor]] | None = None
    ) -> None:
        """Average weights and the state that follows them. Collective, after `gather`.

        Broken replicas are left out too; where all are, nothing is averaged.

        Args:
            leave_out: replicas that give nothing to the average, and receive it all the same.
            kept: takes up each tensor that is averaged, with a copy of what it was. Such a
                sync will be undone, and is not counted.
        """
        pending, self._pending = self._pending, None
        assert pending is not None, "gather first"
        gathered, averaging, outsiders, began, moment = pending
        divergence = [math.nan] * self.replicas.size
        if not gathered.all_broken:
            device, tensors = self._holdings.device(), list(self._holdings.insiders())
            if gathered.broken:
                # A broken replica's own moments are in doubt too, whatever they depend on.
                tensors += all_state(self._optimizer)
                averaging = Averaging(tensors, self.replicas, device=device)
            if kept is not None:
                kept += [(t, t.detach().clone()) for t in (*tensors, *outsiders)]
            silent = sorted({*gathered.broken, *leave_out})
            beside = Averaging(outsiders, self.replicas, device=device)
            with self._roll_call.explained(*moment):
                squares = averaging.run(silent, measure=True)
                squares += beside.run(silent, measure=True)
                pairs = self._exchange(squares)
            divergence = divergences(pairs)
        self.weights_changed()
        reshard(self._model)
        if kept is None:
            milliseconds = 1000 * (time.perf_counter() - began)
            self.history.add(gathered, divergence, milliseconds, moment[0] == SYNC)

    def leave_apart(self) -> None:
        """End a sync without an average: all stays as it is. Local, after `gather`."""
        pending, self._pending = self._pending, None
        assert pending is not None, "gather first"
        milliseconds = 1000 * (time.perf_counter() - pending.began)
        divergence = [math.nan] * self.replicas.size
        self.history.add(pending.gathered, divergence, milliseconds)

    def weights_changed(self) -> None:
        """Take the weights as they are for the beginning of an interval. Local."""
        self._effect.mark()

    def gather_numbers(self, numbers: list[float]) -> list[list[float]]:
        """Return the numbers of every replica, in rank order. Collective."""
        row = torch.tensor(numbers, dtype=torch.float64, device=self._holdings.device())
        return self.replicas.gather(row)

    def mean_losses(self) -> list[float]:
        """Return the mean loss of the replicas that have any by now. Collective if several."""
        rows = [list(self.meter.sums())]
        if self.size > 1:
            device = self._holdings.device()
            rows = self._exchange(torch.as_tensor(rows[0], dtype=torch.float64, device=device))
        return [total / count for total, count in rows if count]

    def _exchange(self, row: Tensor) -> list[list[float]]:
        """Return the rows of every replica, each the sum of its processes'. Collective."""
        return self.replicas.gather(self.replicas.sum_inner_(row))

    def note_saving(self) -> None:
        """Count that the state was taken while the replicas differ. Local."""
        self._saves += 1

    def _warn_of_saving(self, saves: list[float]) -> None:
        """Warn, once, if some replicas' states have been taken and others' not."""
        self._saves = 0
        alone = [r for r, count in enumerate(saves) if count]
        who = ", ".join(map(str, alone))
        if 0 < len(alone) < len(saves) and not self._warned_of_saving:
            self._warned_of_saving = True
            warnings.warn(
                f"{where()}`{self._name}.state_dict()` was called outside `converged()` on "
                f"replica {who} alone. If a checkpoint was saved, it has "
                f"the weights of that replica, not the mean. Save inside `with "
                f"scheduler.converged():`, which every rank enters.",
                stacklevel=5,
            )

    def _refuse_difference(self, digests: list[float], moment: str) -> None:
        if len(set(digests)) > 1:
            refuse_difference(self.replicas, self._name, self._facts(), moment)

    def _refuse_other_steps(self, steps: list[float]) -> None:
        if len(set(steps)) > 1:
            said = ", ".join(f"{r} at {step:g}" for r, step in enumerate(steps))
            raise RuntimeError(
                f"{where()}`{self._name}`: the replicas reached the sync after different "
                f"numbers of optimizer steps ({said}). Each has to call `step` once per "
                f"optimizer step, and all have to load the same checkpoint."
            )

    @contextmanager
    def converged(self, step: int, restore: bool) -> Iterator[None]:
        """Make all replicas one for the block. Collective on entering.

        With `restore` each replica has its own weights and state back afterwards, unless one
        was broken and was healed.
        """
        kept: list[tuple[Tensor, Tensor]] = []
        gathered = self.gather(step, "`converged`")
        self.average(kept=kept if restore else None)
        self._gathered_sums = self.replicas.gather_processes(
            self.meter.sums(), self._holdings.device()
        )
        try:
            yield
        finally:
            self._gathered_sums = None
            if not gathered.broken:
                with torch.no_grad():
                    for tensor, own in kept:
                        tensor.copy_(own)
            reshard(self._model)

    # --- checkpoints

    def state_dict(self) -> dict[str, Any]:
        """Return plain numbers; inside `converged()` the same on every rank."""
        shared = self._gathered_sums is not None
        return self.history.state_dict(self._gathered_sums or self.meter.sums(), shared)

    def parsed(self, entries: Entries) -> tuple[History, list | None]:
        """Return what `assign` takes, from what `state_dict` returned. Changes nothing."""
        return self.history.parsed(entries)

    def assign(self, parsed: tuple[History, list | None]) -> None:
        """Go on from what `parsed` returned."""
        self.restart()
        self.history, sums = parsed
        if sums is not None:
            self.meter.restore(*sums)

    def restart(self) -> None:
        """Begin anew, as if nothing had been seen yet."""
        self.history = History(self.replicas)
        self.meter.reset()
        self._stepping.forget()


class _Pending(NamedTuple):
    """What `average` takes up from `gather`."""

    gathered: Gathered
    averaging: Averaging
    outsiders: list[Tensor]
    began: float
    moment: tuple[str, int]
