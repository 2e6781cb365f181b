"""The replicas of a run as one object: what each saw, and the sync at which they meet.

A sync begins with a roll call, so that a process that does not come is an error and not a
silence. Then follows a fixed sequence of collectives: one small gather (losses, whether the
weights are finite, their layout), one more where tensors differ that no optimizer steps, the
averaging, one small gather of what the averaging measured. When it happens is decided by the
caller from step counts alone, so that every rank does the same.

Source: HDET (arXiv 2604.24708), equations (3) and (4).
"""

import math
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ...errors import where
from ...state import Entries
from .agreement import Facts, digest, refuse_difference
from .averaging import Averaging, check_health, check_layout, divergences
from .groups import Replicas
from .meshes import reshard
from .optimizer_state import all_state, overflows, weight_dependent_state
from .outsiders import Named, Outsiders, model_outsiders
from .rate_effect import RateEffect
from .roll_call import RollCall
from .signals import LossMeter, interval_means
from .stepping import Stepping
from .sync import Sync, parsed_ensemble


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
        self.meter = LossMeter()
        self._size = replicas.size
        self._optimizer = optimizer
        self._model = model
        self._name = name
        self.average_state = average_state
        self._facts = facts
        self.stepping = Stepping(optimizer, name)
        self._roll_call = RollCall(replicas, name)
        self._outsiders = Outsiders(self._named_outsiders)
        self._effect = RateEffect(optimizer, name)
        self._gathered_sums: list | None = None
        self._syncs = 0
        self._ever_given = False
        self._masked_total = [0] * replicas.size
        self._last: dict[str, Any] = {}

    @property
    def within_converged(self) -> bool:
        """Whether this is inside a `converged()` block."""
        return self._gathered_sums is not None

    def counts(self, skipped: bool | None) -> bool:
        """Return whether a step of the scheduler counts; see `Stepping`. Local.

        If it does not, the losses observed for it are dropped.

        Raises:
            RuntimeError: if the process group is not there, or another than it was made for,
                the scheduler is stepped inside `converged()`, several times per optimizer
                step, or without one for long.
        """
        self.require_connection()
        if self.within_converged:
            raise RuntimeError(
                f"{where()}`{self._name}.step` was called inside a `converged()` block, where "
                f"all replicas are one: leave the block before training goes on."
            )
        self._effect.begin()
        took_place = self.stepping.took_place(skipped)
        if not took_place:
            self.meter.drop()
        return took_place

    def require_connection(self) -> None:
        """Raise a `RuntimeError` unless the replicas are those it was made for. Local."""
        if self.replicas.size != self._size:
            raise RuntimeError(
                f"{where()}`{self._name}` was made for {self._size} replicas, and the process "
                f"group now has {self.replicas.size}: make it after "
                f"torch.distributed.init_process_group, and use it before the group is "
                f"destroyed."
            )
        if not self.replicas.connected and self._size > 1:
            raise RuntimeError(
                f"`{self._name}(world_size={self.replicas.size})` has no process group to "
                f"average over: call torch.distributed.init_process_group first, and start "
                f"the script with torchrun."
            )

    def appear(self, takes_part: bool) -> None:
        """Let the others see whether this process has ended, or takes no part. Local.

        Args:
            takes_part: whether the replicas ever differ here, and so meet.
        """
        if takes_part:
            _met.add(self)
        if self.replicas.connected and self.replicas.size > 1:
            self._roll_call.appear(takes_part)

    def assemble(self, call: str, step: int) -> None:
        """Wait until every process has come, ahead of anything collective.

        Args:
            call: what makes the replicas meet.
            step: optimizer steps so far.

        Raises:
            RuntimeError: if a process does not come, or for something else.
        """
        self.require_connection()
        self._roll_call.assemble(call, step, self._device())

    @torch.no_grad()
    def sync(
        self,
        step: int,
        probe: float | Tensor = math.nan,
        judge: Callable[[list[float], list[float]], list[int]] | None = None,
        rescue: Callable[[], None] | None = None,
        call: str = "the sync",
        kept: list[tuple[Tensor, Tensor]] | None = None,
        apart: Sequence[int] = (),
    ) -> Sync:
        """Average weights and the state that follows them, and gather losses. Collective.

        The losses of the interval are read, not reset: `LossMeter.reset` does that.

        Args:
            step: optimizer steps so far, the same on every rank.
            probe: this replica's loss on the common probe batch; NaN for none.
            judge: judge(losses, probes) -> replicas to be left out of the average, from
                gathered numbers alone; the average is written to them like to the others.
            rescue: called on every rank instead of raising where no replica is finite.
            call: what makes the replicas meet.
            kept: takes up each tensor that is averaged, with a copy of what it was.
            apart: the parameter groups whose rates differed between the replicas, the same
                on every rank.

        Returns:
            What was found.

        Raises:
            ValueError: on every rank, if the replicas' tensors differ in layout.
            RuntimeError: if a process does not come or is at another step; on every rank, if
                no replica is finite and there is no `rescue`, or the rates had no effect.
        """
        start = time.perf_counter()
        self.assemble(call, step)
        device = self._device()
        view = self._outsiders.look(device)
        averaging = Averaging(self._insiders(), self.replicas, device=device)
        probed = torch.as_tensor(probe, dtype=torch.float64, device=device).reshape(1)
        one = torch.ones_like(probed)
        health = averaging.health(view)
        if rescue is not None and overflows(self._optimizer):
            health[0] += 1
        parts = (
            health,
            self.meter.row(device),
            *(probed, one, step * one, digest(self._facts()) * one),
            self._effect.row(apart, device),
        )
        with self._roll_call.explained(call, step):
            rows = self.replicas.gather(self.replicas.sum_inner_(torch.cat(parts)))
            check_layout(rows)
            self._refuse_other_steps([row[9] / row[8] for row in rows])
            digests = [row[10] / row[8] for row in rows]
            self._refuse_difference(digests, f"{call} at step {step}")
            totals = [row[2] for row in rows]
            differing, odd = view.settle(totals, self.replicas, device)
            tails = [row[11:] for row in rows]
            self._effect.refuse_none(apart, tails, self.replicas, device)
        rescued = rescue is not None and all(
            row[0] > 0 or r in odd for r, row in enumerate(rows)
        )
        broken = tuple(range(len(rows))) if rescued else check_health(rows, odd)
        means = interval_means([row[3:7] for row in rows])
        losses = [math.nan if r in broken else loss for r, loss in enumerate(means)]
        # A replica is several processes where the model is sharded; each gave its share.
        probes = [math.nan if r in broken else row[7] / row[8] for r, row in enumerate(rows)]
        fallen: list[int] = []
        divergence = [math.nan] * len(rows)
        if rescued and rescue is not None:
            rescue()
        else:
            fallen = judge(losses, probes) if judge is not None else []
            tensors = list(self._insiders())
            if broken:
                # A broken replica's own moments are in doubt too, whatever they depend on.
                tensors = [*tensors, *all_state(self._optimizer)]
                averaging = Averaging(tensors, self.replicas, device=device)
            if kept is not None:
                kept += [(t, t.detach().clone()) for t in (*tensors, *differing)]
            left_out = sorted({*broken, *fallen})
            beside = Averaging(differing, self.replicas, device=device)
            with self._roll_call.explained(call, step):
                squares = averaging.run(left_out, measure=True)
                squares += beside.run(left_out, measure=True)
                pairs = self.replicas.gather(self.replicas.sum_inner_(squares))
            divergence = divergences(pairs)
        self._effect.mark()
        reshard(self._model)
        found = Sync(
            losses=losses,
            given=any(row[4] > 0 for row in rows),
            masked=[
                r
                for r, (row, loss) in enumerate(zip(rows, losses, strict=True))
                if r in broken or (row[4] > 0 and not math.isfinite(loss))
            ],
            divergence=divergence,
            milliseconds=1000 * (time.perf_counter() - start),
            probes=probes,
            fallen=fallen,
            broken=list(broken),
            rescued=rescued,
        )
        return found

    def introduce(self, step: int) -> None:
        """Compare what has to be the same on every replica. Collective.

        Args:
            step: that is about to be counted.

        Raises:
            ValueError: on every rank, if there is a difference.
            RuntimeError: if a process does not come.
        """
        call = "the first step since it was made or loaded,"
        self.assemble(call, step)
        mine = torch.tensor([digest(self._facts()), 1.0], dtype=torch.float64)
        with self._roll_call.explained(call, step):
            rows = self.replicas.gather(self.replicas.sum_inner_(mine.to(self._device())))
        self._refuse_difference([row[0] / row[1] for row in rows], f"step {step}")

    def _refuse_difference(self, digests: list[float], moment: str) -> None:
        if len(set(digests)) > 1:
            refuse_difference(self.replicas, self._name, self._facts(), moment)

    def gather(self, numbers: list[float]) -> list[list[float]]:
        """Return the numbers of every replica, in rank order. Collective."""
        row = torch.tensor(numbers, dtype=torch.float64, device=self._device())
        return self.replicas.gather(row)

    def _refuse_other_steps(self, steps: list[float]) -> None:
        if len(set(steps)) > 1:
            said = ", ".join(f"{r} at {step:g}" for r, step in enumerate(steps))
            raise RuntimeError(
                f"{where()}`{self._name}`: the replicas meet after different numbers of "
                f"optimizer steps ({said}). Each has to call `step` once per optimizer step, "
                f"and all have to load the same checkpoint."
            )

    def record(self, found: Sync) -> None:
        """Count a sync, and keep what it found for `metrics`. Local."""
        self._syncs += 1
        self._ever_given |= found.given
        if len(self._masked_total) != self.replicas.size:
            self._masked_total = [0] * self.replicas.size
        for r in found.masked:
            self._masked_total[r] += 1
        self._last = {
            "losses": found.losses,
            "masked": found.masked,
            "divergence": found.divergence,
            "sync_ms": found.milliseconds,
        }

    @property
    def ever_given_a_loss(self) -> bool:
        """Whether any replica was given a loss before the last sync; equal on all ranks."""
        return self._ever_given

    def metrics(self) -> dict[str, Any]:
        """Return the counts, and what the last sync found. Local."""
        return {
            "syncs": self._syncs,
            "masked_total": list(self._masked_total),
            **self._last,
        }

    def state_dict(self) -> dict[str, Any]:
        """Return plain numbers; inside `converged()` the same on every rank.

        Elsewhere `interval` is this process's own, and says whose by its `place`.
        """
        return {
            "syncs": self._syncs,
            "ever_given": self._ever_given,
            "masked_total": list(self._masked_total),
            "interval": {
                "shape": list(self.replicas.shape),
                "place": [] if self.within_converged else list(self.replicas.place),
                "sums": self._gathered_sums or self._sums(),
            },
        }

    def parsed(self, entries: Entries) -> dict[str, Any]:
        """Return what `assign` takes, from what `state_dict` returned. Changes nothing."""
        return parsed_ensemble(entries, self.replicas)

    def assign(self, parsed: dict[str, Any]) -> None:
        """Go on from what `parsed` returned."""
        self.restart()
        self._syncs, self._ever_given = parsed["syncs"], parsed["ever_given"]
        self._masked_total = parsed["masked"]
        if parsed["sums"] is not None:
            total, count = parsed["sums"]
            self.meter.load_state_dict({"sum": total, "count": int(count)})

    def restart(self) -> None:
        """Begin anew, as if nothing had been seen yet."""
        self._syncs, self._ever_given = 0, False
        self._masked_total, self._last = [0] * self.replicas.size, {}
        self.meter.reset()
        self.stepping.forget()

    @contextmanager
    def converged(self, step: int, restore: bool) -> Iterator[None]:
        """Make all replicas one for the block; the state is then the same on every rank.

        Collective on entering.

        Args:
            step: optimizer steps so far.
            restore: whether each replica has its own weights and state back afterwards; else
                they go on from the common ones. After a sync that healed a broken replica
                nothing is put back: what was broken is not worth it.
        """
        kept: list[tuple[Tensor, Tensor]] = []
        found = self.sync(step, call="`converged`", kept=kept if restore else None)
        if not restore:
            self.record(found)
        self._gathered_sums = self.replicas.gather_processes(self._sums(), self._device())
        try:
            yield
        finally:
            self._gathered_sums = None
            if not found.broken:
                with torch.no_grad():
                    for tensor, own in kept:
                        tensor.copy_(own)
            reshard(self._model)

    def _sums(self) -> list[float]:
        state = self.meter.state_dict()
        return [state["sum"], state["count"]]

    def _device(self) -> torch.device:
        """Return where the collectives run."""
        return next((p.device for p in self._parameters()), torch.device("cpu"))

    def _insiders(self) -> Iterator[Tensor]:
        """Return what is always averaged: the weights that are trained, and their state."""
        yield from (p for p in self._parameters() if p.requires_grad)
        if self.average_state:
            yield from all_state(self._optimizer)
        else:
            yield from weight_dependent_state(self._optimizer)

    def _named_outsiders(self) -> Iterator[Named]:
        """Return what is averaged where it differs between the replicas."""
        held = self._parameters()
        for index, parameter in enumerate(held):
            if not parameter.requires_grad:
                yield f"optimizer's {index}", parameter, True
        if self._model is not None:
            others = {id(p) for e in _met if e is not self for p in e._parameters()}
            own = set(map(id, held))
            yield from model_outsiders(self._model, own, others - own)

    def _parameters(self) -> list[Tensor]:
        return [p for group in self._optimizer.param_groups for p in group["params"]]


# Those whose replicas part and meet, so that each leaves the others' weights to them.
_met: "weakref.WeakSet[Ensemble]" = weakref.WeakSet()
