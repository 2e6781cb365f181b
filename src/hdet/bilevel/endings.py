"""Why an inner solver stopped."""

from enum import StrEnum


class Ending(StrEnum):
    """Why a solver of the lower level, or of its linear system, stopped."""

    MET = "its tolerance is met"
    FLOOR = "the floating-point type allows no more"
    ITERATIONS = "its iterations are spent"
