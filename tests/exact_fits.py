"""Fits whose density is known, without training: parameters are set by hand."""

import dataclasses
import warnings

import jax
import jax.numpy as jnp
import numpy as np

from numpyro_dsn import DSN, DSNWarning, DualNewton, PenaltyMethod


def fit_with(model, asked, guide, **params):
    """A result whose guide has given parameters; the others are those of its start."""
    # Draws of a mixture have no gradient, which the penalty method needs.
    is_mixture = getattr(guide, "num_components", 1) > 1 or getattr(guide, "_rejects", False)
    multipliers = DualNewton(num_first=1000) if is_mixture else PenaltyMethod(num_batches=10)
    dsn = DSN(model, asked, guide, multipliers=multipliers, num_particles=10, num_steps=1)
    with warnings.catch_warnings():  # nothing was trained
        warnings.simplefilter("ignore", DSNWarning)
        result = dsn.run(jax.random.key(0), num_epochs=0, progress_bar=False)
    unknown = set(params) - set(result.params)
    assert not unknown, f"no parameters {unknown}; there are {sorted(result.params)}"
    given = {name: jnp.asarray(value, float)[None] for name, value in params.items()}
    for name, value in given.items():
        assert value.shape == result.params[name].shape
    return dataclasses.replace(result, params=result.params | given)


def as_columns(modes):
    """Values of the modes as an array of shape ``(num_modes, num_parameters)``."""
    values = [np.reshape(modes.values[n], (len(modes.mass), -1)) for n in modes.values]
    return np.concatenate(values, axis=-1)
