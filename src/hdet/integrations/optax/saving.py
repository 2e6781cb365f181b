"""Checkpoints of `Explorer`: one plain dictionary of numbers and flat lists of arrays.

Arrays never change, so saving copies nothing. A state is read whole before anything is
assigned.
"""

from typing import Any

import jax

from ...state import Entries
from .arrays import read, shapes
from .searching import Snapshot
from .state import ExplorerState, trained, with_trained
from .syncing import Syncing

NAME = "Explorer"


class Saving(Syncing):
    """A base of `Explorer`; see there for all attributes that it sets."""

    _alone: bool
    _rates: Any
    _like: ExplorerState | None  # the shapes of one replica's state, since `init`

    def state_dict(self, state: ExplorerState) -> dict[str, Any]:
        """Return all that a run needs to go on, to the last bit.

        Numbers, texts and lists of arrays, for pickle and for orbax's `PyTreeCheckpointer`. The
        data's own place is yours to keep.

        Args:
            state: the newest; it is in it.
        """
        self._refuse_other_state(state, self._step)
        average, parted = self._average, self._parted
        return {
            "format": 1,
            "replicas": self.replicas.size,
            "step": self._step,
            "begun": self._begun,
            "losses": self._losses,
            "nonfinite": self._nonfinite,
            "probe_calls": self._probe.calls,
            "highest": self._held.highest,
            "exploration": self._exploration.state_dict(),
            "watched": not self._alone and state.seen.previous is not None,
            "follows": self._follows,
            "deferral": self._deferral.state_dict(),
            "state": jax.tree.leaves(state._replace(controls=None)),
            "refused": average.refused,
            "provisional": average.provisional,
            "averaged": None if average.params is None else jax.tree.leaves(average.params),
            "averaged_extra": jax.tree.leaves(average.extra),
            "snapshots": [
                {"log_rate": s.log_rate, "arrays": jax.tree.leaves((s.params, s.extra))}
                for s in self._snapshots
            ],
            "snapshot_calls": self._calls,
            "snapshot_stride": self._stride,
            "parted": None if parted is None else jax.tree.leaves(parted),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> ExplorerState:
        """Go on from `state_dict`; call `init` before, with weights of the same shapes.

        Args:
            state_dict: from `state_dict(state)` of an Explorer with the same arguments.

        Returns:
            The state to go on with.

        Raises:
            RuntimeError: if `init` was not called.
            ValueError: if it does not fit; then nothing has changed.
        """
        if self._like is None:
            raise RuntimeError(
                f"`{NAME}.load_state_dict` needs the shapes of the weights: call "
                f"`explorer.init(params)` first."
            )
        entries = Entries(state_dict, NAME)
        entries.format(1)
        size = self.replicas.size
        saved = entries.integer("replicas", low=1)
        if saved != size:
            rule = f"must be {size}, as many as there are here"
            entries.refuse("replicas", saved, rule, "make Explorer with as many replicas")
        exploration = self._exploration.parsed(entries.entries("exploration"))
        steps = [entries.integer(key) for key in ("step", "begun", "losses", "nonfinite")]
        calls, refused = entries.integer("probe_calls"), entries.integer("refused")
        provisional = entries.boolean("provisional")
        highest = entries.number("highest", low=0)
        one = self._like
        if not self._alone:
            # Saved with a search, it may go on without one.
            previous = one.params if entries.boolean("watched") else None
            one = one._replace(seen=one.seen._replace(previous=previous))
        leading = () if self._alone else (size,)
        stacked, whole = self.replicas.where, self.replicas.everywhere
        state = read(entries, "state", shapes(one, leading), stacked)
        average = None
        if entries.raw("averaged") is not None:
            average = (
                read(entries, "averaged", shapes(one.params, wide=True), whole),
                read(entries, "averaged_extra", shapes(one.extra), whole),
            )
        like = shapes((one.params, one.extra))
        snapshots = [
            Snapshot(row.number("log_rate"), *read(row, "arrays", like, whole))
            for row in entries.rows("snapshots")
        ]
        taken = entries.integer("snapshot_calls"), entries.integer("snapshot_stride", low=1)
        parted = None
        if entries.raw("parted") is not None:
            parted = read(entries, "parted", shapes(trained(one), leading), stacked)
        follows = entries.boolean("follows")
        deferral = self._deferral.parsed(entries.entries("deferral"))
        # Nothing can fail any more.
        self._exploration.assign(exploration)
        self._step, self._begun, self._losses, self._nonfinite = steps
        self._probe.calls, self._average.refused = calls, refused
        self._average.params, self._average.extra = average or (None, None)
        self._average.provisional = provisional
        self._held.now, self._held.highest = self._rates.known(max(steps[0] - 1, 0)), highest
        search = self._exploration.search
        self._held.peak = None if search is None or search.found else self._peak
        self._snapshots, (self._calls, self._stride) = snapshots, taken
        if parted is not None and (search is None or search.phase != "trial"):
            state, parted = with_trained(state, parted), None  # without a probe, no trial
        self._follows, self._deferral = follows, deferral
        self._parted, self._last, self._last_line = parted, {}, ""
        return state if self._alone else self._controlled(state)

    def _refuse_other_state(self, state: ExplorerState, decided: int) -> None:
        """Raise where a state is not that after so many decided steps. Waits for it."""
        step = int(state.step if self._alone else state.step[0])
        if step != decided:
            raise RuntimeError(
                f"`{NAME}` was given a state after {step} optimizer steps, and has decided on "
                f"{decided}: give each step the state that the last one returned, and make an "
                f"Explorer for each run. If a step was interrupted, load the last checkpoint, "
                f"or begin anew with `explorer.init(params)`."
            )
