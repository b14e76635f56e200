"""Which guide is fitted."""

import numpy as np

from numpyro_dsn.guides import AutoRealNVP
from numpyro_dsn.multipliers import DualNewton, PenaltyMethod
from numpyro_dsn.path_loss import MAX_BY_WEIGHTS
from numpyro_dsn.program import Program


def default_guide(program: Program, method: PenaltyMethod | DualNewton) -> AutoRealNVP:
    """Return a real NVP; one that mixes normal distributions and rejects draws where it may.

    Draws of the second kind have no gradient, which the penalty method needs, and of many latents
    also the other.

    Parameters
    ----------
    program
        The program, which knows the latents.
    method
        The method that the guide is for.
    """
    num_latents = sum(np.size(site["value"]) for site in program.latents.values())
    if isinstance(method, PenaltyMethod) or num_latents > MAX_BY_WEIGHTS:
        return AutoRealNVP(program.guide_model)
    return AutoRealNVP(
        program.guide_model, num_components=8, acceptance_dims=(64, 64), truncated=True
    )
