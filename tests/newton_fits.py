"""Fits by the dual Newton method that share their compiled programs: one latent, the same sizes."""

import warnings

import jax

from numpyro_dsn import DSN, DSNWarning, DualNewton

QUICK = DualNewton(num_draws=4096, num_proposals=4, min_ess=500.0)
"""A quarter of the default's draws: enough for one latent."""


def quick_dsn(model, stated, guide=None, **settings):
    return DSN(model, stated, guide, **({"method": QUICK} | settings))


def run_quietly(dsn, num_epochs=6, seed=0, **arguments):
    """Run a fit, whether or not it has converged by then."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DSNWarning)
        key = jax.random.key(seed)
        return dsn.run(key, num_epochs=num_epochs, progress_bar=False, **arguments)
