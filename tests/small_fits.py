"""A circuit whose fits take no time, and how to compare them."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer.autoguide import AutoDiagonalNormal
from numpyro.infer.initialization import init_to_value

from numpyro_dsn import DSN, PenaltyMethod
from numpyro_dsn.constraints import Moments

NUM_DRAWS = 500
"""Draws that measure an epoch: 10 batches of 50."""

FAR = {"total": Moments(1.0, std=0.5)}


def draw_parameters():
    return numpyro.sample("z", dist.Uniform(-2 * jnp.ones(2), 2.0).to_event(1))


def circuit():
    numpyro.deterministic("total", draw_parameters().sum())


def gaussian(model):
    """A guide that compiles fast; u ~ N(0, 1) in unconstrained space."""
    center = init_to_value(values={"z": jnp.zeros(2)})
    return AutoDiagonalNormal(model, init_loc_fn=center, init_scale=1.0)


def make_dsn(model=circuit, asked=FAR, guide=gaussian, **settings):
    settings = {
        "method": PenaltyMethod(num_batches=10),
        "num_particles": NUM_DRAWS // 10,
        "num_steps": 20,
    } | settings
    return DSN(model, asked, guide(model), **settings)


def leaves(tree):
    def to_numpy(leaf):
        is_key = isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(leaf) if is_key else leaf)

    return [to_numpy(leaf) for leaf in jax.tree.leaves(tree)]


def are_identical(one, other):
    pairs = zip(leaves(one), leaves(other), strict=True)
    return all(np.array_equal(a, b, equal_nan=a.dtype.kind == "f") for a, b in pairs)


def are_same_states(one, other):
    """Whether two states are identical but for the time that their epochs took."""
    states = [state._replace(history=state.history._replace(seconds=0.0)) for state in (one, other)]
    return are_identical(*states)
