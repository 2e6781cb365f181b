"""Oort: clients of high statistical utility, not too slow, with room for those never tried.

    U_i      = n_i sqrt(mean of the squared losses of i's examples)    statistical utility
    score_i  = (U_i - U_min) / (U_max - U_min) + sqrt(0.1 ln R / L_i)  L_i: last invited, R: now
    score_i *= (T / t_i)^alpha  if t_i > T                             too slow

Of the m clients of a round, a share eps that decays is drawn from those never tried, the
largest first; the others from the tried whose score is at least c times the m-th best, in
proportion to their scores.

The square of a loss below 0 would reverse the order of the clients, so if there are such losses
all are counted from the lowest one known, l: the mean of (L - l)^2.

Four points differ from the published code, whose edge cases fail or distort: utilities are
rescaled after clipping, over tried clients alone (not over placeholders of the untried too);
eps m is rounded at random, so that its mean is right for small m; if there are too few clients
of either kind the other kind fills up, and nothing is retried without end; a client that did
not answer counts as tried, with the mean utility, as the paper treats stragglers, and the
longest duration.

Source: Lai, Zhu, Madhyastha, Chowdhury, "Oort: Efficient Federated Learning via Guided
Participant Selection", OSDI 2021 (arXiv 2010.06081), Algorithm 1; its code and FedScale's.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...errors import require_number, require_whole
from ...state import Entries
from .draws import draw, draw_uniform, largest
from .pacer import Pacer
from .registry import Registry, floats, read_pairs
from .report import LARGEST, ClientReport
from .selector import Round, Selector

# How many times more untried clients are considered than taken.
_WINDOW = 5


class Oort(Selector):
    """Oort's training selector. Probes nobody.

    Reports' `squared_loss` makes the utility exact; without it, it is n |loss|. Losses below 0
    make all of them count from the lowest one; see `loss_floor`. To invite more clients than
    are needed and close the round early, as the paper does, raise `count`.

    Args:
        epsilon: share of clients never tried before the first round, 0 to 1; the paper's.
        decay: what it is multiplied by each round, 0 to 1; the paper's.
        epsilon_min: its lower bound, 0 to 1; the paper's.
        cut_off: c, 0 to 1; the paper's.
        clip: quantile of the utilities above which they are cut, 0 to 1; the paper's.
        alpha: exponent of the penalty on slow clients, >= 0; the paper's 2. 0 leaves out
            durations and the pacer: "Oort without system terms".
        pacer_window: W >= 1, rounds; the paper's.
        pacer_start: the first percentile of durations taken for T, 0 to 100. FedScale's 30: at
            the original code's 10 nine clients of ten start penalised.
        pacer_step: percentiles per move, 0 to 100; that of the code.
        blacklist_rounds: clients that replied more often are passed over, the most frequent
            first. None for no blacklist, the code's default; the paper has 10.
        blacklist_share: the largest share of clients passed over, 0 to 1; the code's.
        sizes: n_k if known beforehand, by which untried clients are ranked; without it they
            are all equal.
        seed: the run's seed.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        *,
        epsilon: float = 0.9,
        decay: float = 0.98,
        epsilon_min: float = 0.2,
        cut_off: float = 0.95,
        clip: float = 0.95,
        alpha: float = 2.0,
        pacer_window: int = 20,
        pacer_start: float = 30.0,
        pacer_step: float = 5.0,
        blacklist_rounds: int | None = None,
        blacklist_share: float = 0.3,
        sizes: Mapping[Any, float] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(seed, sizes)
        shares = {
            "epsilon": epsilon,
            "decay": decay,
            "epsilon_min": epsilon_min,
            "cut_off": cut_off,
            "clip": clip,
            "blacklist_share": blacklist_share,
        }
        for argument, share in shares.items():
            require_number("Oort", argument, share, "give a share of one", low=0, high=1)
        for argument, percent in {"pacer_start": pacer_start, "pacer_step": pacer_step}.items():
            require_number("Oort", argument, percent, "give a percentile", low=0, high=100)
        require_number("Oort", "alpha", alpha, "0 turns it off", low=0)
        require_whole("Oort", "pacer_window", pacer_window, "give a number of rounds", 1)
        if blacklist_rounds is not None:
            remedy = "give a number of rounds"
            require_whole("Oort", "blacklist_rounds", blacklist_rounds, remedy, 1)
        self._epsilon, self._decay, self._epsilon_min = epsilon, decay, epsilon_min
        self._cut_off, self._clip, self._alpha = cut_off, clip, alpha
        self._blacklist_rounds, self._blacklist_share = blacklist_rounds, blacklist_share
        self._pacer = Pacer(pacer_window, pacer_start, pacer_step)
        if alpha > 0:
            self.uses = ("duration",)
        # Round in which a row was last chosen for its utility.
        self._exploited: dict[int, int] = {}

    def _choose(self, now: Round) -> Tensor:
        self._pacer.pace(now.number)
        listed = self._blacklisted(now.rows)
        tried = self._registry.invitations[now.rows] > 0
        old = (tried & ~listed).nonzero().squeeze(1)
        new = (~tried & ~listed).nonzero().squeeze(1)
        explore, exploit = self._split(now, len(old), len(new))
        best = self._exploit(now, old, exploit)
        self._exploited.update(dict.fromkeys(now.rows[best].tolist(), now.number))
        fresh = self._explore(now, new, explore)
        # With a blacklist these may be too few.
        rest, missing = listed.nonzero().squeeze(1), now.count - explore - exploit
        source = self._generator(now.number, "blacklist")
        return torch.cat([best, fresh, rest[draw_uniform(len(rest), missing, source)]])

    def _split(self, now: Round, old: int, new: int) -> tuple[int, int]:
        """Return how many to take of those never tried, and how many of the others."""
        epsilon = max(self._epsilon * self._decay**now.number, self._epsilon_min)
        source = self._generator(now.number, "rounding")
        up = float(torch.rand((), generator=source, dtype=torch.float64))
        explore = min(int(epsilon * now.count + up), now.count)
        if old and now.count > 1:
            explore = min(explore, now.count - 1)
        explore = min(explore, new)
        exploit = min(now.count - explore, old)
        return min(now.count - exploit, new), exploit

    def _exploit(self, now: Round, old: Tensor, count: int) -> Tensor:
        if count == 0:
            return old[:0]
        scores = self._score(now.number, now.rows[old])
        cut = self._cut_off * scores.topk(count).values[-1]
        admitted = (scores >= cut).nonzero().squeeze(1)
        source = self._generator(now.number, "exploit")
        return old[admitted[draw(scores[admitted].log(), count, source)]]

    def _score(self, number: int, rows: Tensor) -> Tensor:
        """Return the scores of clients invited before: [n] float64, at least 0."""
        known = self._registry
        utilities = known.imputed(self._utilities(rows), rows)
        index = min(int(len(rows) * self._clip), len(rows) - 1)
        ceiling = utilities.kthvalue(index + 1).values
        # A little under the lowest, so that no score is 0.
        floor = 0.999 * utilities.min()
        width = ceiling - floor
        scores = torch.ones_like(utilities)
        if width > 0:
            scores = (utilities.clamp(max=ceiling) - floor) / width
        scores = scores + (0.1 * math.log(number) / known.last_invited[rows].double()).sqrt()
        if self._alpha > 0:
            durations = known.duration[rows]
            preferred = self._pacer.preferred(durations)
            durations[known.unanswered(rows)] = durations.nan_to_num(0.0).max()
            slow = durations > preferred
            scores[slow] *= (preferred / durations[slow]) ** self._alpha
        return scores

    def _utilities(self, rows: Tensor) -> Tensor:
        known = self._registry
        losses, squares = known.loss[rows], known.squared_loss[rows]
        return _utilities(known.examples[rows], losses, squares, self.loss_floor())

    def _explore(self, now: Round, new: Tensor, count: int) -> Tensor:
        if count == 0:
            return new[:0]
        sizes = self._registry.data_sizes(now.rows[new])
        # Those as large as the last in the window are considered too: all, if all are equal.
        least = sizes.topk(min(_WINDOW * count, len(new))).values[-1]
        seen = (sizes >= least).nonzero().squeeze(1)
        source = self._generator(now.number, "explore")
        return new[seen[draw(sizes[seen].log(), count, source)]]

    def _blacklisted(self, rows: Tensor) -> Tensor:
        """Return the mask of the clients to pass over."""
        if self._blacklist_rounds is None:
            return torch.zeros(len(rows), dtype=torch.bool)
        answers = self._registry.answers[rows]
        over = answers > self._blacklist_rounds
        most = int(self._blacklist_share * len(rows))
        if int(over.sum()) > most:
            over = torch.zeros_like(over)
            over[largest(answers, most)] = True
        return over

    def _learn(self, number: int, rows: list[int], reports: list[ClientReport]) -> None:
        if self._alpha == 0:
            return
        pairs = zip(rows, reports, strict=True)
        chosen = [report for row, report in pairs if self._exploited.get(row) == number]
        losses = floats([r.loss for r in chosen])
        squares = floats([r.squared_loss for r in chosen], 0.0, LARGEST**2)
        examples = floats([r.num_examples for r in chosen], 0.0)
        # These may be lower than any before.
        floor = min([self.loss_floor(), *losses.nan_to_num(0.0).tolist()])
        utilities = _utilities(examples, losses, squares, floor)
        self._pacer.note(number, utilities[utilities.isfinite()].tolist())

    def _own_state(self) -> dict[str, Any]:
        exploited = torch.tensor(list(self._exploited.items()), dtype=torch.int64)
        return {"exploited": exploited.reshape(-1, 2), "pacer": self._pacer.state_dict()}

    def _read_own_state(
        self, entries: Entries, registry: Registry, last_round: int
    ) -> dict[str, Any]:
        rows = (0, len(registry.row_of) - 1)
        exploited = read_pairs(entries, "exploited", rows, (1, last_round))
        if len(exploited[:, 0].unique()) < len(exploited):
            entries.refuse("exploited", exploited, "must hold each row once")
        pacer = self._pacer.read(entries.entries("pacer"), last_round)
        return {"_exploited": dict(exploited.tolist()), "_pacer": pacer}


def _utilities(examples: Tensor, losses: Tensor, squares: Tensor, floor: float) -> Tensor:
    """Return n sqrt(mean of (L - floor)^2) of each client: [K], NaN where unknown.

    Args:
        examples: n.
        losses: mean L; NaN where unknown.
        squares: mean L^2; if that is NaN, it is the square of the mean loss.
        floor: at most 0, and at most every loss.
    """
    plain = losses.square()
    if floor < 0:
        plain = (losses - floor).square()
        squares = (squares - 2 * floor * losses + floor**2).clamp_min(0.0)
    return examples * torch.where(squares.isnan(), plain, squares).sqrt()
