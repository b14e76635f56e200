"""Fits whose density is known, without training: parameters or flow are set by hand."""

import dataclasses
import warnings

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.infer.util import transform_fn

from numpyro_dsn import DSN, DSNWarning, PenaltyMethod

QUICK = PenaltyMethod(num_batches=10)


def start_of(model, asked, guide=None, method=QUICK):
    """A result of a run without epochs."""
    dsn = DSN(model, asked, guide, method=method, num_particles=10, num_steps=1)
    with warnings.catch_warnings():  # nothing was trained
        warnings.simplefilter("ignore", DSNWarning)
        return dsn.run(jax.random.key(0), num_epochs=0, progress_bar=False)


def fit_with(model, asked, guide, **params):
    """A result whose guide has given parameters; the others are those of its start."""
    result = start_of(model, asked, guide)
    unknown = set(params) - set(result.params)
    assert not unknown, f"no parameters {unknown}; there are {sorted(result.params)}"
    given = {name: jnp.asarray(value, float) for name, value in params.items()}
    for name, value in given.items():
        assert value.shape == result.params[name].shape[1:]
    # The adapter alone knows the guide's constraints; it never has to invert them.
    transforms = {name: result.fit.flow._transforms[name] for name in given}
    return with_params(result, transform_fn(transforms, given, invert=True))


def with_params(result, given):
    """The result with other unconstrained parameters of its only chain's flow."""
    (chain,) = result.state.chains
    chain = chain._replace(params=chain.params | given)
    return dataclasses.replace(
        result,
        params={n: v[None] for n, v in result.fit.flow.constrain(chain.params).items()},
        state=result.state._replace(chains=(chain,)),
    )


def fit_of(model, asked, flow):
    """A result with a flow of the test's own; what it needs none of are gradients and inverse."""
    result = start_of(model, asked)
    problem = dataclasses.replace(result.fit.problem, flow=flow)
    return dataclasses.replace(result, fit=result.fit._replace(problem=problem))


def as_columns(modes):
    """Values of the modes as an array of shape ``(num_modes, num_parameters)``."""
    values = [np.reshape(modes.values[n], (len(modes.mass), -1)) for n in modes.values]
    return np.concatenate(values, axis=-1)
