"""What a certificate rests on."""

from typing import NamedTuple

from jax import Array

from numpyro_dsn.weighted.acceptance import Acceptance
from numpyro_dsn.weighted.draws import Pool
from numpyro_dsn.weighted.targets import Targets


class Inputs(NamedTuple):
    """What a method knows of a fit, in the units of the targets.

    pool
        Draws of the prior and of flows.
    last
        Number of the fit in the pool, shape ``()``; it was not trained on its own draws.
    natural_parameters
        eta, shape ``(num_constraints,)``.
    targets
        Targets with their units.
    from_prior
        Whether proposal 0 is the prior, shape ``()``.
    acceptance
        Which of the fit's draws are kept.
    """

    pool: Pool
    last: Array
    natural_parameters: Array
    targets: Targets
    from_prior: Array
    acceptance: Acceptance
