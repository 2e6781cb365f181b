"""Every constant that steers `Explorer`, in one place.

The defaults were tuned once, on small problems, and are meant for every run; the documentation
has what they achieve. Those marked "measured" are varied on its pages "Why it is built so"
(docs/results/remedies.md) and "What finds a learning rate, and what does not"
(docs/results/learning-rate-rules.md); the others were chosen with the method and not varied
since.
"""

import math
from dataclasses import dataclass, field, fields
from typing import Any

from ...errors import require_number, require_whole


def _constant(default: float, **limits: float) -> Any:
    return field(default=default, metadata=limits)


@dataclass(frozen=True)
class SearchConfig:
    """The constants of `Explorer`; all ranks need the same.

    Attributes:
        climb_start: factor on the user's rate at which the climb begins; far below what trains,
            for users who are wrong by a factor of 30.
        climb_gain: the climb's step in log rate while the agreement is at its largest, and in
            proportion to it below; larger overshoots, smaller takes too many steps (measured).
        climb_limit: factor on the user's rate at which the climb ends by itself.
        agreement_steps: steps over which the agreement is smoothed, and before which the climb
            does not end; more steps see the crossing later (measured).
        crossing_share: fraction of the largest agreement at which the climb ends: past the
            bound the agreement can stay near zero for long, and the rate would go on rising
            (measured).
        crossing_factor: the rate falls to the crossing's over this: for the lag of the
            smoothed agreement, and to a bound that is safe (measured).
        snapshots: of the climb, on all replicas together; the fewer, the further apart.
        restart_warmup: steps of a linear warm-up after the moments were begun anew.
        settle_steps: steps at the bound before a trial, in which the moments become what they
            are at this rate: trials from the initial weights mislead on large models
            (measured).
        untried_rise: where no trial can follow, the rate rises by this factor at the end of
            the steps at the bound: to about where trials would put it (measured).
        trial_steps: steps of a trial (measured).
        trial_probes: probe batches that score a trial; one is too few to tell neighbours apart.
        trial_warmup: fraction of a trial in which its rate rises from zero.
        trial_decay: fraction of a trial in which its rate falls to zero; without, short trials
            prefer rates that are too low.
        trial_span: largest rate of a trial over its smallest.
        trial_spacing: largest ratio of neighbouring rates in a trial, for few replicas.
        trial_levels: most rates in a trial; more replicas share them.
        max_trials: trials in a row at most, where the largest rate is the best or cannot be
            told from it; 0 for the climb alone (measured).
        trial_tolerance: fraction of what the best replica of a trial has gained by which two
            losses have to differ to be told apart; smaller takes noise for evidence (measured).
        trial_rise: the rate found is above the weighted mean of what was tried by at most this
            factor: the noise of a single replica's batch asks for lower rates than the batch
            of all (measured).
        gain_power: and by no more than the gradients' gain to this power, which is 1 where
            there is no such noise; 0 for no rise, 100 for the whole of it whatever the noise
            (measured).
        warmup_steps: steps of the warm-up to the rate found (measured). The damage of a short
            one stays: GPTs at a constant rate end up to 15 percent worse with half of it.
        warmup_pace: each step of that warm-up counts so many times while the schedule falls:
            short runs have no steps to spare (measured).
        evidence_steps: optimizer steps of the updates that move the rate after the search, and
            over which each is scored (measured).
        evidence_delay: steps between the two: right away an update is judged by what the next
            steps undo, and all rates seem too high (measured).
        hold_gain: after the search, the log rate moves by it, times the cosine of old updates
            and new gradients, times the log of the steps so far; 0 holds it (measured).
        hold_share: share of the schedule's peak below which the rate moves no more, as it
            decays: a decay is there to remove noise, and the cosine would undo it.
        hold_from: share of the rate as written that a schedule has to have reached before the
            rate moves: in a long warm-up it would move up all the way, on one run of 3,200
            steps to 2.9 times the best rate (measured).
        hold_limit: largest move at a sync.
        hold_span: largest factor by which all these moves together raise or lower the rate that
            the search has found: in long runs they could go on for ever.
        track_step: largest move of a value at a sync after the search, on its own scale; 0
            holds it.
        unprobed_damping: factor on downward moves of a rate without a probe, since training
            losses of single intervals always ask for smaller rates.
        decay_power: moves of a rate are multiplied by (rate / its maximum in the schedule)
            to this power: a decay removes noise, and the losses would rather undo it.
        confidence_scale: t-statistic at which the confidence is tanh(1) = 0.76.
        ridge: of the regression, relative to a column's own square: nothing against a
            signal, and enough where two permutations happen to be the same, as they often
            are with four replicas.
        confounded_ridge: the same where there are too few replicas to tell the
            hyperparameters apart.
        outlier_ceiling: losses are cut at the median plus this many times the way from the
            lowest to the median, so that one diverging replica does not bend the line.
        probe_mix: share of a replica's own weights in those that the probe scores, the rest
            being the averaged weights; 1 is the short-horizon bias (measured).
        averaging_weight: weight of the newest weights in their exponential moving average.
        max_weight_move: distance from the average, in norms of the average, beyond which
            weights are not taken into it: no interval of training moves them so far.
        max_refused_weights: how often in a row weights so far away are left out of it.
        loss_weight: weight of the newest loss in the exponential moving average.
        noise_weight: weight of the newest square in the variance of the losses.
        noise_deviations: standard deviations that noise is taken to reach.
        jump_deviations: standard deviations beyond which a change of the loss is no noise.
        settled_after: losses after which their noise is known.
        implausible_factor: a loss further away than so many times all that is known of the
            losses (improvement, noise, spread) does not happen by itself.
        early_implausible_factor: the same in units of the loss, while the noise is unknown.
        divergence_threshold: a replica has diverged where its loss is above the lowest by
            more than so many times the improvement of the run, and larger rates are worse;
            infinity excludes none.
        spike_threshold: fraction of the improvement that, if lost, counts as a loss spike: all
            replicas go back to the averaged weights; infinity never does.
        rollback_factor: a rollback divides the rate by it.
        max_rollbacks: largest number of rollbacks in a row.
        blame_factor: a rate within this factor of one that was rolled back is blamed for the
            next spike as well.
        same_level_factor: a loss within this factor of its height before a rollback is a new
            level, and no spike.
        max_doublings: each new level doubles what has to be lost for the next rollback, so
            many times at most.
        calm_syncs: syncs without a spike after which the last one is over.
        retry_syncs: syncs within which a rate that is tried again must not fail.
        steady_syncs: calm syncs after which the rate is not to blame for a spike.
        max_nonfinite_syncs: syncs in a row without any finite replica that end the run.

    Raises:
        ValueError: if one is out of its range.
    """

    climb_start: float = _constant(1e-3, above=0, high=1)
    climb_gain: float = _constant(0.6, above=0, high=10)
    climb_limit: float = _constant(1e3, low=1, high=1e9)
    agreement_steps: int = _constant(5, low=1)
    crossing_share: float = _constant(0.1, low=0, high=1)
    crossing_factor: float = _constant(10.0, low=1, high=1000)
    snapshots: int = _constant(16, low=2)
    restart_warmup: int = _constant(12, low=1)
    settle_steps: int = _constant(12, low=1)
    untried_rise: float = _constant(4.0, low=1, high=1000)
    trial_steps: int = _constant(16, low=2)
    trial_probes: int = _constant(8, low=1)
    trial_warmup: float = _constant(0.25, above=0, high=1)
    trial_decay: float = _constant(0.4, above=0, high=1)
    trial_tolerance: float = _constant(0.4, above=0, high=10)
    trial_rise: float = _constant(2.0, low=1, high=1000)
    gain_power: float = _constant(2.0, low=0, high=100)
    warmup_steps: int = _constant(80, low=1)
    warmup_pace: int = _constant(2, low=1)
    evidence_steps: int = _constant(20, low=1)
    evidence_delay: int = _constant(15, low=0)
    hold_gain: float = _constant(80.0, low=0, high=1e6)
    hold_share: float = _constant(0.5, low=0, high=1)
    hold_from: float = _constant(0.9, low=0, high=1)
    hold_limit: float = _constant(0.35, low=0, high=10)
    hold_span: float = _constant(5.0, low=1, high=1e6)
    trial_span: float = _constant(10.0, above=1, high=1e6)
    trial_spacing: float = _constant(2.2, above=1, high=1e6)
    trial_levels: int = _constant(8, low=2)
    max_trials: int = _constant(3, low=0)
    track_step: float = _constant(0.1, low=0, high=10)
    unprobed_damping: float = _constant(0.3, low=0, high=1)
    decay_power: float = _constant(4.0, low=0, high=100)
    confidence_scale: float = _constant(3.0, above=0)
    ridge: float = _constant(0.01, above=0)
    confounded_ridge: float = _constant(0.5, above=0)
    outlier_ceiling: float = _constant(2.0, above=0)
    probe_mix: float = _constant(0.15, above=0, high=1)
    averaging_weight: float = _constant(0.07, above=0, high=1)
    max_weight_move: float = _constant(10.0, above=0, finite=False)
    max_refused_weights: int = _constant(3, low=0)
    loss_weight: float = _constant(0.2, above=0, high=1)
    noise_weight: float = _constant(0.1, above=0, high=1)
    noise_deviations: float = _constant(4.0, above=0)
    jump_deviations: float = _constant(6.0, above=0)
    settled_after: int = _constant(5, low=1)
    implausible_factor: float = _constant(10.0, above=0)
    early_implausible_factor: float = _constant(1000.0, above=0)
    divergence_threshold: float = _constant(4.0, low=0, finite=False)
    spike_threshold: float = _constant(0.25, low=0, finite=False)
    rollback_factor: float = _constant(3.0, low=1, high=1000)
    max_rollbacks: int = _constant(3, low=1)
    blame_factor: float = _constant(1.5, low=1, high=1000)
    same_level_factor: float = _constant(2.0, low=1)
    max_doublings: int = _constant(10, low=0)
    calm_syncs: int = _constant(3, low=1)
    retry_syncs: int = _constant(5, low=1)
    steady_syncs: int = _constant(10, low=1)
    max_nonfinite_syncs: int = _constant(3, low=1)

    def __post_init__(self) -> None:
        for constant in fields(self):
            check = require_whole if isinstance(constant.default, int) else require_number
            value, remedy = (
                getattr(self, constant.name),
                f"the default is {constant.default:.3g}",
            )
            check("SearchConfig", constant.name, value, remedy, **constant.metadata)

    @property
    def rollback_fall(self) -> float:
        """The fall of the log rate at a rollback."""
        return math.log(self.rollback_factor)


DEFAULT = SearchConfig()
