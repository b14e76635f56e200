"""What a certificate rests on."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from numpyro_dsn.weighted.draws import Draws, Pool
from numpyro_dsn.weighted.targets import Targets


class Inputs(NamedTuple):
    """What a method knows of a fit, in the units of the targets.

    pool
        Draws of the prior and of flows.
    newest
        Number of the proposal whose draws no flow was trained on, shape ``()``.
    log_q
        Log density of the fit at every draw, in unconstrained space, of the shape of the draws.
    natural_parameters
        eta, shape ``(num_constraints,)``.
    targets
        Targets with their units.
    from_prior
        Whether proposal 0 is the prior, shape ``()``.
    own, own_log_q
        Fresh draws of the fit, with T as the circuit gives it, and their log density under it.
    """

    pool: Pool
    newest: Array
    log_q: Array
    natural_parameters: Array
    targets: Targets
    from_prior: Array
    own: Draws
    own_log_q: Array


def as_flag(value: bool) -> Array:
    """Return a Boolean as an array, so that both values share one compiled program."""
    return jnp.asarray(value, bool)
