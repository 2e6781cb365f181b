"""`Explorer` for JAX: the learning rate of an optax optimizer, found while the model trains.

What a replica does is compiled; what becomes of it is decided by the host, in plain floats, at
each step of the climb, at the end of a trial and at each sync. In between, nothing waits.

Source: HDET (arXiv 2604.24708); how the rate moves is described in `docs/concepts/explorer.md`.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.typing import ArrayLike

from ...replica.ensemble.permutation import permutation
from ...replica.explorer.config import DEFAULT, SearchConfig
from ...replica.explorer.deferral import Deferral
from ...replica.explorer.dimensions import Dimension
from ...replica.explorer.exploration import Exploration
from ...replica.explorer.held_schedule import HeldSchedule
from . import checks
from .arrays import shapes
from .averaged_weights import AveragedWeights
from .optimizer import Make, begun_anew, refuse_fixed_rate, refuse_unfit, restarted, with_rate
from .probe import CommonProbe, Probe
from .readings import Readings
from .replicas import Replicas, averaged, finite, first, mean
from .saving import Saving
from .schedule import Rates
from .state import ExplorerState, begun, plain_step, take_step, trained


class Explorer(Readings, Saving):
    """Tunes the learning rate of an optax optimizer while the model trains.

    Before: `optimizer = optax.adamw(schedule)`, `opt_state = optimizer.init(params)`
    After:  `explorer = Explorer(optax.adamw, schedule, total_steps=..., replicas=4,
    probe=..., probe_batches=...)`, `state = explorer.init(params)`

    One object belongs to one run: it remembers what was decided. With one replica it is the
    plain optimizer under `jax.jit`, bit for bit.

    Args:
        make_optimizer: maps a learning rate to an optimizer, as `optax.adamw` does, or
            `lambda lr: optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(lr))`.
        learning_rate: a number, or an optax schedule: optimizer step, from 0, to rate. A
            guess of its height is enough.
        replicas: N, all on one device; or a mesh of one axis, with a replica on each device.
        total_steps: optimizer steps of the run; required with a schedule, whose largest rate
            is where the search begins from.
        sync_every: optimizer steps between two syncs; about 1 % of the run.
        probe: probe(state, batch) -> one replica's loss on a held-out batch, which all
            replicas score. Without it there is no search unless `search` asks for it, and then
            no trials.
        probe_batches: a list of held-out batches, several times a replica's batch, which are
            used in turn. A trial scores eight, a sync one.
        search: whether the rate's scale is searched first, in 40 to 90 steps, and then warmed
            up to, in 40 to 80. Default: with a probe.
        bounds: lowest and highest factor on the rates given here, for all replicas in all
            phases. Default 1e-6 to 1e6: as good as none.
        seed: of the permutations.
        config: the constants of the search; default `SearchConfig()`.

    Attributes:
        replicas: who they are.
        axis: the name of their axis, for collectives of your own in a step.

    Raises:
        ValueError: naming argument, rule, value and remedy.
    """

    def __init__(
        self,
        make_optimizer: Make,
        learning_rate: ArrayLike | Callable[[Any], Any],
        *,
        replicas: int | Mesh,
        total_steps: int | None = None,
        sync_every: int = 100,
        probe: Probe | None = None,
        probe_batches: Sequence[Any] | None = None,
        search: bool | None = None,
        bounds: tuple[float, float] = (1e-6, 1e6),
        seed: int = 0,
        config: SearchConfig | None = None,
    ) -> None:
        checks.check_others(make_optimizer, sync_every, seed, config)
        rate = checks.check_rate(learning_rate, total_steps)
        checks.check_replicas(replicas)
        checks.check_probe(probe, probe_batches, search)
        checks.check_bounds(bounds)
        self.replicas = Replicas(replicas)
        self.axis = self.replicas.axis
        self._config, self._seed, self._bounds = config or DEFAULT, seed, bounds
        self._interval = sync_every
        self._rates = Rates(rate, total_steps)
        self._peak = self._rates.peak
        self._alone = self.replicas.size == 1
        self._searches = (probe is not None if search is None else search) and not self._alone
        mix = self._config.probe_mix
        self._probe = CommonProbe(self.replicas, probe, probe_batches or [], mix)
        if self._alone:
            self._optimizer = make_optimizer(rate)
        else:
            self._optimizer = with_rate(make_optimizer, self._peak)
        self._first = self.replicas.whole(first)
        self._mean = self.replicas.whole(mean)
        self._averaged = self.replicas.stacked(averaged)
        self._restarted = self.replicas.stacked(restarted)
        self._begun_anew = self.replicas.stacked(begun_anew)
        self._finite = self.replicas.whole(finite)
        self._like = None
        self._updates: int | None = None  # calls of `update` in the step that is traced
        if total_steps is not None:
            checks.warn_of_short_run(total_steps, self._searches)
        self._begin()

    def init(self, params: Any, extra: Any = None) -> ExplorerState:
        """Return the state before the first step, and begin the run anew.

        Args:
            params: the weights of one replica, a pytree of arrays.
            extra: what else one replica's step changes, such as batch statistics: a pytree of
                arrays or numbers.

        Raises:
            ValueError: if the weights are not real numbers, or the optimizer is unfit.
        """
        checks.check_params(params)
        self._begin()
        params, extra = jax.tree.map(jnp.asarray, (params, extra))
        opt_state = self._optimizer.init(params)
        if self._alone:
            one = ExplorerState(params, opt_state, jnp.zeros((), int), extra)
        else:
            refuse_unfit(opt_state)
            refuse_fixed_rate(self._optimizer, params, self._peak)
            one = begun(params, opt_state, extra, self._searches)
        like = shapes(one._replace(controls=None))
        self._like = like._replace(opt_state=shapes(opt_state, loose=True))
        state = self.replicas.spread(one)
        return state if self._alone else self._controlled(state)

    def jit(self, step: Callable[..., tuple[ExplorerState, Any]]) -> Callable[..., Any]:
        """Return the compiled step of all replicas, in place of `jax.jit`.

        Args:
            step: step(state, *arguments) -> (state, anything), of one replica; it calls
                `update` once.

        Returns:
            A function of the replicas' state and arguments, all with the replicas as leading
            axis if there are several. Call it once per optimizer step, with the state that it
            returned last, from a plain loop: between the compiled steps the host decides.
        """

        @functools.wraps(step)
        def one(state: ExplorerState, *arguments: Any) -> tuple[ExplorerState, Any]:
            self._updates = 0
            try:
                result = step(state, *arguments)
                if self._updates != 1:
                    raise ValueError(
                        f"the function under `@explorer.jit` called `explorer.update` "
                        f"{self._updates} times: it has to be one optimizer step."
                    )
            finally:
                self._updates = None
            good = isinstance(result, tuple) and len(result) == 2
            if not good or not isinstance(result[0], ExplorerState):
                raise TypeError(
                    "the function under `@explorer.jit` must return two things, the state that "
                    "`explorer.update` returned and anything else: return state, loss"
                )
            return result

        compiled = self.replicas.map(one)

        @functools.wraps(step)
        def run(state: ExplorerState, *arguments: Any) -> tuple[ExplorerState, Any]:
            checks.check_arguments_of_step(state, arguments, self.replicas.size)
            state, result = compiled(state, *arguments)
            return self._after(state), result

        return run

    def update(self, state: ExplorerState, grads: Any, loss: ArrayLike) -> ExplorerState:
        """Take an optimizer step; call it once inside the function under `jit`.

        Args:
            state: of the replica.
            grads: its own gradients; they are shared here.
            loss: its own training loss, one number.

        Returns:
            The state with other weights, optimizer state and step.
        """
        if self._updates is None:
            raise RuntimeError(
                "`Explorer.update` needs the other replicas: call it inside a function that is "
                "decorated with `@explorer.jit`."
            )
        self._updates += 1
        if jnp.shape(loss) != ():
            raise ValueError(
                f"`Explorer.update(loss=...)` takes one number, and got shape "
                f"{jnp.shape(loss)}: give its mean."
            )
        if self._alone:
            return plain_step(state, grads, self._optimizer)
        rates, axis = self._rates, self.axis
        return take_step(state, grads, loss, self._optimizer, rates.at, self._peak, axis)

    def split(self, batch: Any) -> Any:
        """Return a batch with its first axis divided among the replicas.

        Args:
            batch: a pytree of arrays [B, ...]; N must divide B. For one replica it stays so.

        Raises:
            ValueError: if it does not.
        """
        return batch if self._alone else jax.tree.map(self._split, batch)

    def converged(self, state: ExplorerState) -> ExplorerState:
        """Return one state without the replicas' axis, for evaluating and for export.

        Weights, optimizer state and `extra` are the mean of the replicas; while a trial goes
        on, which will be undone, those from before it. Training does not notice.

        Args:
            state: the newest.
        """
        if self._alone:
            return state
        told = trained(state) if self._parted is None else self._parted
        healthy = self._finite(told)
        keep = healthy | ~healthy.any()  # where no replica is finite, neither is the mean
        params, opt_state, extra = self._mean(told, keep)
        return ExplorerState(params, opt_state, self._first(state.step), extra)

    # --- internals

    def _begin(self) -> None:
        """Stand before the first step."""
        rate = Dimension(
            "lr/0", "log", math.log1p(0.3), self._bounds, 1.0, 0, lambda: 1.0, lambda _: None
        )
        self._exploration = Exploration(
            [rate],
            self.replicas.size,
            self._seed,
            permutation,
            search=self._searches,
            paired=self._probe.exists,
            trials=self._probe.exists,
            config=self._config,
        )
        searching = self._exploration.search is not None
        now = self._rates.known(0)
        peak = self._peak if searching else None
        self._held = HeldSchedule(now, now, peak, peak or 0.0)
        self._average = AveragedWeights(self.replicas, self._config)
        self._step = self._begun = self._losses = self._nonfinite = 0
        self._probe.calls = 0
        self._follows = False
        self._deferral = Deferral(self._config.evidence_steps, self._config.evidence_delay)
        self._parted, self._last, self._last_line = None, {}, ""
        self._forget_climb()

    def _after(self, state: ExplorerState) -> ExplorerState:
        """Decide what becomes of a step that was taken."""
        step, search = self._step + 1, self._exploration.search
        if self._alone:
            self._step = step
            return state
        due = search is None and (step - self._begun) % self._interval == 0
        if due or (search is not None and search.phase == "climb"):
            # Here the host waits: Ctrl-C finds nothing changed, and the step can be repeated.
            self._refuse_other_state(state, step)
        self._step = step
        self._losses += 1
        self._held.advance(self._rates.known(step - 1))
        if search is not None:
            return self._search_step(state, search)
        return self._sync(state) if due else state

    def _split(self, leaf: Any) -> Any:
        shape, size = jnp.shape(leaf), self.replicas.size
        if not shape or shape[0] % size:
            raise ValueError(
                f"`Explorer.split` got an array of shape {shape}, whose first axis {size} "
                f"replicas cannot share: use batches of {size}, {2 * size}, ... examples."
            )
        return self.replicas.split(leaf)
