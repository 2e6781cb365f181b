"""The constants of MAID, checked."""

from dataclasses import dataclass

from ..errors import require, require_number, require_whole


@dataclass(frozen=True)
class Rules:
    """The constants of Algorithms 3.1 and 3.2; the defaults are ours, `paper()` has theirs.

    Args:
        shrink: rho in (0, 1), multiplies the step size after each refused trial.
        grow: rho-bar >= 1, multiplies the step size after each accepted step.
        tighten: nu in (0, 1], multiplies the accuracies after a failed test.
        relax: nu-bar >= 1, multiplies the accuracies after each accepted step; only without
            `share`.
        share: in (0, 1), the part of alpha |z|^2 that eps |grad g| may be. eps is set to it
            after each step and failed search, by at most a factor of ten at a time; a tenth
            did best in our measurements. None: only nu and nu-bar change eps, and every
            search makes all of its trials, as printed.
        eta: in (0, 1), the distance of z from the worst case that omega allows. 0.5 did best
            in our measurements; near 0 the test accepts almost anything.
        decrease: lambda in (0, eta), the part of alpha |z|^2 that f must fall by.
        trials: the step sizes that a search tries before the accuracy is tightened; one more
            after each failed search.
        refinements: how often the accuracy may be tightened in one outer step.
        barzilai_borwein: whether a search starts from a Barzilai-Borwein step size instead,
            moving theta by at most 0.3 max(|theta|, 1). The long one leads far where f is
            flat, and may lead to a theta whose lower level is expensive to solve; therefore
            long and short ones alternate.
        memory: the bound at the new point must be below the largest of those at this many
            last points. 1 is monotone: f certainly falls at every step. More lets it rise in
            between (Grippo, Lampariello, Lucidi); 5 avoids most failed searches, and reaches
            lower values at equal cost in our measurements.

    Raises:
        ValueError: if one is out of its range.
    """

    shrink: float = 0.5
    grow: float = 10 / 9
    tighten: float = 0.5
    relax: float = 1.05
    share: float | None = 0.1
    eta: float = 0.5
    decrease: float = 0.1
    trials: int = 10
    refinements: int = 50
    barzilai_borwein: bool = True
    memory: int = 5

    def __post_init__(self) -> None:
        ranges = {
            "shrink": {"above": 0.0, "below": 1.0},
            "grow": {"low": 1.0},
            "tighten": {"above": 0.0, "high": 1.0},
            "relax": {"low": 1.0},
            "share": {"above": 0.0, "below": 1.0},
            "eta": {"above": 0.0, "below": 1.0},
        }
        for name, limits in ranges.items():
            value = getattr(self, name)
            if value is not None or name != "share":
                require_number("Rules", name, value, _usual(name), **limits)
        remedy = f"lambda lies below eta={self.eta:g}; {_usual('decrease')}"
        require_number("Rules", "decrease", self.decrease, remedy, above=0, below=self.eta)
        for name, low in (("trials", 1), ("refinements", 0), ("memory", 1)):
            require_whole("Rules", name, getattr(self, name), _usual(name), low=low)

    @classmethod
    def paper(cls, *, relax: float = 1.05) -> "Rules":
        """Return the constants of Algorithm 3.1 as printed.

        Args:
            relax: nu-bar; the authors' experiments use 1.05, and 1.25 on their quadratic.
        """
        return cls(relax=relax, share=None, barzilai_borwein=False, memory=1)


def _usual(name: str) -> str:
    return f"the default is {getattr(Rules, name):.4g}"


def rules_of(call: str, rules: Rules | None) -> Rules:
    """Return the rules, or the default ones; a `ValueError` if they are something else."""
    good = rules is None or isinstance(rules, Rules)
    require(good, call, "rules", rules, "must be None or Rules", "write Rules(memory=1)")
    return rules or Rules()
