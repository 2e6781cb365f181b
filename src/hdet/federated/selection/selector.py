"""The rules that every selector keeps, so that a method's file holds the method alone.

- *Which clients.* `clients` is what is available now, in a canonical order that the caller
  fixes (by name, by partition). Draws go by the position in it, never by the ids themselves,
  which differ from run to run, as Flower's node ids do.
- *Randomness.* Each draw has a generator of its own, keyed by (seed, round, purpose). Nothing
  advances, so a run resumed from `state_dict` goes on as if never stopped.
- *Invitations and replies.* `select` counts an invitation; `feedback` takes a reply only to an
  open invitation. So duplicates, replies nobody asked for and unknown clients change nothing;
  a late reply counts, and its numbers are taken unless newer ones have come; a reply that never
  comes leaves the client average in value and recently asked (see `registry`).
- *Losses* may have any sign and scale. Where a method multiplies a loss by examples, losses are
  counted from the lowest known one if that is below 0; see `loss_floor`.
- *Silent clients.* A client that did not answer its probe is chosen only if the others do not
  suffice.

No call communicates.
"""

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...errors import is_whole, require
from ...seeding import generator
from ...state import Entries
from .registry import LAST_ROUND, Registry
from .report import ClientReport, is_examples


@dataclass(frozen=True)
class Round:
    """One call of `select`, as the methods see it.

    Attributes:
        number: the round, from 1.
        rows: [K] the clients' rows in the registry, by position.
        count: how many to choose; at most K.
        probed: [K] bool: clients that answered their probe.
        silent: [K] bool: clients that did not; None if nobody was asked.
    """

    number: int
    rows: Tensor
    count: int
    probed: Tensor
    silent: Tensor | None


class Selector(ABC):
    """Chooses the clients of each round by the reports of earlier rounds.

    All draws are keyed by the seed and the round, and depend on the order in which the clients
    are listed, never on their ids. Late, duplicate or missing replies, clients that vanish and
    return, and losses that are not finite leave counts and staleness right. A loss, duration or
    norm that is not finite, or beyond 1e30, counts as unknown, and the client as average.

    Losses may have any sign. Where a loss is multiplied by examples (`Oort`, `HeteroSelect`) it
    counts from 0, or from the lowest loss known of any client if one is below 0. To count from
    another bound, subtract it from the losses that clients report.

    Args:
        seed: the run's seed.
        sizes: examples of each client, for those known beforehand.

    Attributes:
        probe_batches: on how many mini-batches a client measures a probe's loss; None for all
            of its data.
        uses: the optional entries of `ClientReport` without which a part of the choice is
            neutral.

    Raises:
        ValueError: if an argument is out of range.
    """

    probe_batches: int | None = None
    uses: tuple[str, ...] = ()

    def __init__(self, seed: int = 0, sizes: Mapping[Any, float] | None = None) -> None:
        name = type(self).__name__
        require(isinstance(seed, int), name, "seed", seed, "must be an integer", "try seed=0")
        for client, size in (sizes or {}).items():
            rule = "must be finite numbers above 0, at most 2^53"
            remedy = "leave out clients whose number of examples is unknown"
            require(is_examples(size), name, "sizes", {client: size}, rule, remedy)
        self._seed = seed
        self._registry = Registry(name, sizes)
        self._last_round = 0
        self._asked = torch.empty(0, dtype=torch.int64)

    def candidates(self, clients: Sequence[Hashable]) -> list[Any]:
        """Return the clients to probe for their loss of the model before the next `select`.

        Args:
            clients: the ids that the next `select` will be given.

        Returns:
            Ids, in the order of `clients`; empty if the method needs no probe.

        Raises:
            ValueError: if a client is listed twice.
        """
        rows = self._registry.rows(clients)
        positions = self._ask(rows, self._last_round + 1)
        if positions is None:
            self._asked = rows
            return list(clients)
        positions = positions.sort().values
        self._asked = rows[positions]
        return self._registry.ids_at(positions)

    def select(
        self,
        round: int,
        clients: Sequence[Hashable],
        count: int,
        probes: Mapping[Any, ClientReport] | None = None,
    ) -> list[Any]:
        """Choose the clients of a round, and count their invitations.

        Args:
            round: the round, from 1.
            clients: ids (ints or strings) of the clients available, each once, in a canonical
                order.
            count: how many to choose, at least 1. If fewer are available, all are chosen.
            probes: the answers of the clients of `candidates`; some may be missing.

        Returns:
            `count` different ids, in the order of `clients`.

        Raises:
            ValueError: if an argument is out of range, a client is listed twice, or the method
                needs probes and got None.
        """
        call = f"{type(self).__name__}.select"
        _require_count(call, "round", round, "rounds count from 1")
        _require_count(call, "count", count, "choose at least one client")
        registry = self._registry
        rows = registry.rows(clients)
        count = min(count, len(rows))
        self._check_select(count, probes)
        probed = self._take_probes(round, probes or {})
        silent = None
        if probes is not None and len(self._asked):
            silent = registry.mask_of(self._asked) & ~probed
        now = Round(round, rows, count, probed, silent)
        positions = self._choose(now).sort().values if len(rows) else rows
        registry.invite(rows[positions], round)
        self._last_round = max(self._last_round, round)
        return registry.ids_at(positions)

    def feedback(self, round: int, reports: Mapping[Any, ClientReport]) -> None:
        """Take the replies to a round's invitations, in one call or as they come.

        Args:
            round: the round to which the clients were invited.
            reports: by id, in any order. Those of clients that were not invited to that round,
                or have answered, are passed over.

        Raises:
            ValueError: if `round` is below 1, or an update or histogram is not one of numbers
                or not as long as those before; nothing is changed then.
        """
        _require_count(f"{type(self).__name__}.feedback", "round", round, "rounds count from 1")
        taken = self._registry.invited(round, reports)
        norms = self._registry.norms([report for _, report in taken])
        last = self._registry.last_answered
        newest = [(row, report) for row, report in taken if int(last[row]) < round]
        self._learn(round, [row for row, _ in newest], [report for _, report in newest])
        self._registry.answer(taken, norms, round)

    def loss_floor(self) -> float:
        """Return the zero of losses where a method multiplies them by examples.

        0, as long as no loss below it is known, and the method is then the published one. Else
        the lowest loss known of any client: such losses (of densities, cosines, rewards) have
        no zero of their own, and a product with one below 0 would reverse the order of the
        clients. To count from another bound, subtract it from the losses reported.
        """
        return min(self._registry.lowest_loss(), 0.0)

    def state_dict(self) -> dict[str, Any]:
        """Return the state: numbers, strings, lists and tensors.

        Raises:
            ValueError: if an id is neither an int nor a string.
        """
        return {
            "selector": type(self).__name__,
            "round": self._last_round,
            "registry": self._registry.state_dict(),
            "open": self._registry.open_state(),
            "asked": self._asked.clone(),
            **self._own_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load a state of `state_dict`.

        Args:
            state: the state. The constructor's arguments are not part of it: construct with
                those of the run that wrote it.

        Raises:
            ValueError: if it is another selector's or damaged; nothing is changed then.
        """
        name = type(self).__name__
        entries = Entries(state, name)
        written = entries.text("selector")
        if written != name:
            entries.refuse("selector", written, f"must be {name!r}")
        last_round = entries.integer("round", 0, LAST_ROUND)
        registry = self._registry.read(entries, last_round)
        asked = entries.tensor("asked", (None,), torch.int64)
        if bool(((asked < 0) | (asked >= len(registry.row_of))).any()):
            entries.refuse("asked", asked, "names a row that does not exist")
        own = self._read_own_state(entries, registry, last_round)
        # Nothing can fail any more.
        self._registry, self._last_round = registry, last_round
        self._asked = asked.to("cpu", copy=True)
        for attribute, value in own.items():
            setattr(self, attribute, value)

    @abstractmethod
    def _choose(self, now: Round) -> Tensor:
        """Return the positions of `now.count` different clients; at least one is available."""

    def _ask(self, rows: Tensor, number: int) -> Tensor | None:
        """Return the positions of the clients to probe in round `number`; None for all."""
        del number
        return rows[:0]

    def _check_select(self, count: int, probes: Mapping[Any, ClientReport] | None) -> None:
        """Raise unless this method can choose `count` clients with these probes."""
        del count, probes

    def _learn(self, number: int, rows: list[int], reports: list[ClientReport]) -> None:
        """Keep what this method alone needs of the newest replies; refuse damaged ones."""
        del number, rows, reports

    def _own_state(self) -> dict[str, Any]:
        """Return what this method alone adds to the state."""
        return {}

    def _read_own_state(
        self, entries: Entries, registry: Registry, last_round: int
    ) -> dict[str, Any]:
        """Return the attributes, by name, that a state of `_own_state` was made from."""
        del entries, registry, last_round
        return {}

    def _generator(self, number: int, purpose: str) -> torch.Generator:
        return generator(self._seed, "selection", number, purpose)

    def _take_probes(self, number: int, probes: Mapping[Any, ClientReport]) -> Tensor:
        """Record the answers to probes; return the mask of the clients that gave one."""
        registry, ids, reports = self._registry, list(probes), list(probes.values())
        if ids == registry.listed:
            rows = registry.listed_rows
        else:
            pairs = [(registry.row_of[i], r) for i, r in probes.items() if i in registry.row_of]
            rows = torch.tensor([row for row, _ in pairs], dtype=torch.int64)
            reports = [report for _, report in pairs]
        registry.observe(rows, reports, number)
        return registry.mask_of(rows)

    def _require_probes(self, probes: Mapping[Any, ClientReport] | None, remedy: str) -> None:
        rule = "must hold the answers of candidates(clients)"
        call = f"{type(self).__name__}.select"
        require(probes is not None, call, "probes", probes, rule, remedy)


def _require_count(call: str, argument: str, value: int, remedy: str) -> None:
    rule = f"must be a whole number of at least 1, at most {LAST_ROUND}"
    require(is_whole(value) and 1 <= value <= LAST_ROUND, call, argument, value, rule, remedy)
