"""What a fit is of: a program, a guide that was set up, and the arguments of the model."""

from collections.abc import Callable
from typing import NamedTuple

from jax import Array
from numpyro.infer.autoguide import AutoContinuous

from numpyro_dsn.flow import Flow
from numpyro_dsn.program import Program


class Fit(NamedTuple):
    """What was fitted: the program, the guide that was set up, and the model's arguments.

    ``flow`` and ``prior`` are their functions in unconstrained space; ``prior`` is ``None`` if it
    cannot be sampled.
    """

    program: Program
    guide: AutoContinuous
    args: tuple
    kwargs: dict
    flow: Flow
    prior: Callable[[Array, int], Array] | None
