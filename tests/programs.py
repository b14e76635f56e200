"""Small models that several tests read."""

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.control_flow import scan

from numpyro_dsn import DSNWarning, behavior
from numpyro_dsn.constraints import Moments
from numpyro_dsn.program import read

ZERO = Moments(0.0)
ANY_Z = {"z": ZERO}


def draw_z(*shape):
    return numpyro.sample("z", dist.Uniform(-1.0, 1.0).expand(shape).to_event(len(shape)))


def prior(distribution):
    """Return the model that draws "z" from a prior, and nothing else."""
    return lambda: numpyro.sample("z", distribution)


def then(site):
    """Return the model that draws "z" and then does one thing more."""

    def model():
        draw_z()
        site()

    return model


def states(statistic, constraint):
    """Return the model that states one behavior, named "rate"."""

    def model():
        draw_z()
        behavior("rate", statistic, constraint)

    return model


def read_quietly(rng_key, model, stated, *args, **kwargs):
    with pytest.warns(DSNWarning):
        return read(rng_key, model, stated, args, kwargs)


def parametric():
    gain = numpyro.param("gain", 2.0, constraint=dist.constraints.positive)
    numpyro.deterministic("rate", gain * draw_z())


def noise_in_scan():
    def step(carry, _):
        return carry + jax.random.normal(numpyro.prng_key()), None

    numpyro.deterministic("x", scan(step, draw_z(), jnp.zeros(3))[0])
