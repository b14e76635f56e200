"""Rank-two networks with stable amplification and the published synaptic noise."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

from numpyro_dsn import DSN, behavior
from numpyro_dsn.constraints import Moments
from tests.benchmarks.fits import GAP, VIOLATION, fit, report
from tests.benchmarks.rows import Row, worst

NOISE = 0.01


def eigenvalues(u, v):
    """Return Re of the leading eigenvalue of V'U, and the largest of (W + W')/2, W = U V'."""
    (a, b), (c, d) = v.T @ u
    half, root = (a + d) / 2, (a - d) ** 2 / 4 + b * c
    real = half + jnp.where(root > 0, jnp.sqrt(jnp.where(root > 0, root, 1.0)), 0.0)
    # W + W' = S K S' with S = [U V]: its spectrum is that of R K R', where S'S = R'R.
    s = jnp.concatenate([u, v], axis=1)
    r = jnp.linalg.cholesky(s.T @ s + 1e-6 * jnp.eye(4)).T
    swapped = jnp.concatenate([r[:, 2:], r[:, :2]], axis=1)
    return real, jnp.linalg.eigvalsh(swapped @ r.T / 2)[-1]


def circuit(size: int) -> None:
    z = numpyro.sample("z", dist.Uniform(-jnp.ones((2, size, 2)), 1.0).to_event(3))
    u, v = z + NOISE * jax.random.normal(numpyro.prng_key(), z.shape)
    growth, amplification = eigenvalues(u, v)
    behavior("growth", growth, Moments(mean=0.5, std=0.25))
    behavior("amplification", amplification, Moments(mean=1.5, std=0.25))


def rank_two(size: int, seed: int, num_epochs: int) -> Iterator[Row]:
    """The entropy is below the box's volume; a fit that cannot be trusted says so."""
    result, seconds = fit(DSN(circuit), seed, size, num_epochs=num_epochs)
    certificate, violation = result.certificate, worst(result.measured.violation)
    volume, status = 4 * size * np.log(2), result.status.name
    row = Row(f"rank two, N = {size}", seed, seconds)
    row.at_most("entropy", result.entropy, volume)
    is_good = certificate.gap <= GAP and violation <= VIOLATION
    row.that("says what it is", is_good or status != "CONVERGED", status.lower())
    row.note("gap", certificate.gap).note("violation", violation)
    report(row, result).note("", f"“{certificate.verdict}”")
    yield row
