"""The rules that every selector keeps, so that a method's file holds the method alone.

- *Which clients.* `clients` is what is available now, in a canonical order that the caller
  fixes (by name, by partition). Draws go by the position in it, never by the ids themselves:
  Flower's node ids, say, differ from run to run.
- *Chance.* Each draw has a generator of its own, keyed by (seed, round, purpose). Nothing
  advances, so a run resumed from `state_dict` goes on as if never stopped.
- *Invitations and replies.* `select` counts an invitation; `feedback` takes a reply only to an
  invitation that is still open. So duplicates, replies nobody asked for and clients unknown
  change nothing; a late reply counts, and its numbers are taken unless newer ones have come; a
  reply that never comes leaves the client average in value and recently asked (see `registry`).
- *Losses* may have any sign and scale. Where a method multiplies a loss by examples, losses are
  counted from the lowest known one if that is below 0; see `loss_floor`.
- *Silence.* A client whose probe was not answered is chosen only if the others do not suffice.

No call communicates.
"""

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ...errors import require
from ...seeding import generator
from ...state import Entries
from .invitations import Invitations
from .registry import LAST_ROUND, Registry
from .report import ClientReport, is_examples


@dataclass(frozen=True)
class Round:
    """One call of `select`, as the methods see it.

    Attributes:
        number: the round, from 1.
        rows: [K] the clients' rows in the registry, by position.
        count: how many to choose; at most K.
        probed: [K] bool: whose probe was answered.
        silent: [K] bool: who was asked in vain; None if nobody was.
    """

    number: int
    rows: torch.Tensor
    count: int
    probed: torch.Tensor
    silent: torch.Tensor | None


class Selector(ABC):
    """Chooses the clients of each round from what earlier rounds told of them.

    Attributes:
        probe_batches: how many mini-batches a client is to measure a probe's loss on; None
            for all of its data.
        goes_by: entries of `ClientReport`, of those a client may leave out, without which a
            part of the choice is neutral.
    """

    probe_batches: int | None = None
    goes_by: tuple[str, ...] = ()

    def __init__(self, seed: int = 0, sizes: Mapping[Any, float] | None = None) -> None:
        require(
            isinstance(seed, int),
            type(self).__name__,
            "seed",
            seed,
            "must be an integer",
            "seed=0 will do",
        )
        for client, size in (sizes or {}).items():
            require(
                is_examples(size),
                type(self).__name__,
                "sizes",
                {client: size},
                "must be finite numbers above 0, at most 2^53",
                "leave out clients whose number of examples is unknown",
            )
        self._seed = seed
        self._registry = Registry(type(self).__name__, sizes)
        self._last_round = 0
        self._invitations = Invitations()
        self._asked = torch.empty(0, dtype=torch.int64)

    def candidates(self, clients: Sequence[Hashable]) -> list[Any]:
        """Return whose loss of the current global model to measure before the next `select`.

        Args:
            clients: the ids that the next `select` will be given.

        Returns:
            Ids, in the order of `clients`; empty if the method needs no probe.

        Raises:
            ValueError: if a client stands there twice.
        """
        rows = self._registry.rows(clients)
        positions = self._ask(rows, self._last_round + 1)
        if positions is None:
            self._asked = rows
            return list(clients)
        positions = positions.sort().values
        self._asked = rows[positions]
        return self._registry.listed(positions)

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
            probes: what the clients of `candidates` answered, as far as they did.

        Returns:
            `count` different ids, in the order of `clients`.

        Raises:
            ValueError: if an argument is out of range, a client stands there twice, or the
                method needs probes and got None.
        """
        call = f"{type(self).__name__}.select"
        _require_whole(call, "round", round, "rounds count from 1")
        _require_whole(call, "count", count, "choose at least one client")
        rows = self._registry.rows(clients)
        count = min(count, len(rows))
        self._check_select(count, probes)
        probed = self._take_probes(round, rows, probes or {})
        silent = None
        if probes is not None and len(self._asked):
            silent = self._among(self._asked, len(rows)) & ~probed
        now = Round(round, rows, count, probed, silent)
        positions = self._choose(now).sort().values if len(rows) else rows
        self._invite(round, rows[positions])
        return self._registry.listed(positions)

    def feedback(self, round: int, reports: Mapping[Any, ClientReport]) -> None:
        """Take the replies to a round's invitations, in one call or as they come.

        Args:
            round: the round that the clients were invited to.
            reports: by id, in any order. Those of clients not invited to that round, or
                already heard of, are passed over.

        Raises:
            ValueError: if `round` is below 1, or an update or histogram is not one of numbers
                or not as long as those before; nothing is changed then.
        """
        _require_whole(f"{type(self).__name__}.feedback", "round", round, "rounds count from 1")
        waiting = self._invitations.waiting(round)
        row_of = self._registry.row_of
        # In the order of rows: sums must not depend on which reply came first.
        taken = sorted(
            ((row_of[i], r) for i, r in reports.items() if row_of.get(i) in waiting),
            key=lambda pair: pair[0],
        )
        newest = [
            (row, report)
            for row, report in taken
            if int(self._registry.last_answered[row]) < round
        ]
        rows, replies = [row for row, _ in taken], [report for _, report in taken]
        norms = self._registry.norms(replies)
        self._learn(round, [row for row, _ in newest], [report for _, report in newest])
        self._registry.answer(rows, replies, norms, round)
        self._invitations.close(round, rows)

    def loss_floor(self) -> float:
        """Return what losses are counted from where a method multiplies them by examples.

        0, as long as no loss below it is known, and the method is then the published one. Else
        the lowest loss known of any client: such losses (of densities, cosines, rewards) have
        no zero of their own, and a product with one below 0 would turn the order of the
        clients round. To count from another bound, subtract it from the losses reported.
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
            "open": self._invitations.state(),
            "asked": self._asked.clone(),
            **self._own_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a state of `state_dict`.

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
        registry = self._registry.read(entries.entries("registry"), last_round)
        count = len(registry.row_of)
        invitations = Invitations.read(entries, "open", last_round, count)
        asked = entries.tensor("asked", (None,), torch.int64)
        if bool(((asked < 0) | (asked >= count)).any()):
            entries.refuse("asked", asked, "names a row that is not there")
        own = self._read_own_state(entries, registry, last_round)
        # Nothing can fail any more.
        self._registry, self._last_round, self._invitations = registry, last_round, invitations
        self._asked = asked.to("cpu", copy=True)
        for attribute, value in own.items():
            setattr(self, attribute, value)

    @abstractmethod
    def _choose(self, now: Round) -> torch.Tensor:
        """Return the positions of `now.count` different clients, at least one being there."""

    def _ask(self, rows: torch.Tensor, number: int) -> torch.Tensor | None:
        """Return the positions of the clients to probe in round `number`; None for all."""
        del number
        return rows[:0]

    def _check_select(self, count: int, probes: Mapping[Any, ClientReport] | None) -> None:
        """Raise unless this method can choose `count` clients with these probes."""
        del count, probes

    def _learn(self, number: int, rows: list[int], reports: list[ClientReport]) -> None:
        """Take what this method alone keeps of the newest replies, before they are recorded.

        Whatever can be wrong with a report is found here, before anything has changed.
        """
        del number, rows, reports

    def _own_state(self) -> dict[str, Any]:
        """Return what this method alone adds to the state."""
        return {}

    def _read_own_state(
        self, entries: Entries, registry: Registry, last_round: int
    ) -> dict[str, Any]:
        """Return the attributes that `_own_state` was made from, read from a state of it."""
        del entries, registry, last_round
        return {}

    def _generator(self, number: int, purpose: str) -> torch.Generator:
        return generator(self._seed, "selection", number, purpose)

    def _take_probes(
        self, number: int, rows: torch.Tensor, probes: Mapping[Any, ClientReport]
    ) -> torch.Tensor:
        """Record the answers of the available clients; return the mask of who gave one."""
        answered, reports = self._registry.rows_known(list(probes)), list(probes.values())
        registered = answered >= 0
        if not bool(registered.all()):
            reports = [
                r for r, there in zip(reports, registered.tolist(), strict=True) if there
            ]
            answered = answered[registered]
        self._registry.observe(answered, reports, number)
        return self._among(answered, len(rows))

    def _among(self, chosen: torch.Tensor, count: int) -> torch.Tensor:
        """Return the mask over positions of the rows `chosen`, where they are available."""
        mask = torch.zeros(count, dtype=torch.bool)
        places = self._registry.places(chosen)
        mask[places[places >= 0]] = True
        return mask

    def _invite(self, number: int, rows: torch.Tensor) -> None:
        replied = self._registry.last_answered[rows] == number
        self._registry.invite(rows, number)
        self._invitations.open(number, rows[~replied])
        self._last_round = max(self._last_round, number)


def _require_whole(call: str, argument: str, value: int, remedy: str) -> None:
    whole = isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= LAST_ROUND
    rule = f"must be a whole number of at least 1, at most {LAST_ROUND}"
    require(whole, call, argument, value, rule, remedy)
