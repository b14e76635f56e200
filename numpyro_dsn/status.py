"""How a run ended, in sentences for the user, and the package's warning category."""

import os
import sys
import warnings
from enum import Enum
from pathlib import Path

_PACKAGE = str(Path(__file__).parent) + os.sep


class Status(Enum):
    """Outcome of a run; the value is what it means."""

    CONVERGED = "The constraints are met."
    NOT_CONVERGED = (
        "The fit has not converged: a constraint is not met yet, or the entropy is not close to "
        "its bound. Look at `result.certificate.verdict`; continue with "
        "`init_state=result.state` while the gap still falls."
    )
    INFEASIBLE = (
        "No distribution over the simulated circuits meets the constraints: the target is "
        "infeasible, or at the edge of what is feasible. Change it, or widen the prior."
    )
    INTERRUPTED = (
        "The run was interrupted; the result holds the last finished epoch. Continue with "
        "`init_state=result.state`."
    )
    NONFINITE = (
        "Nearly all draws give a statistic that is NaN or infinite: too few are left to fit. "
        "Guard the statistic, or bound the prior to where the simulator is stable."
    )
    FAILED = (
        "A simulation raised an error; the result holds the last finished epoch. Return NaN where "
        "a circuit cannot be simulated: such circuits are then left out."
    )
    DIVERGED = (
        "The parameters of the flow became NaN; lower the learning rate or the initial penalty."
    )


class DSNWarning(UserWarning):
    """Something about a model or a fit that the user should know and that is no error."""


def warn(message: str) -> None:
    """Warn at the caller's own line, outside this package."""
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, DSNWarning, stacklevel=level)
