"""An isotropic normal distribution of variance 1/2 in many dimensions."""

import resource
from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

from numpyro_dsn import DSN, behavior
from numpyro_dsn.constraints import Moments
from tests.benchmarks.fits import fit, report
from tests.benchmarks.rows import Row, worst


def circuit(num_latents: int) -> None:
    z = numpyro.sample("z", dist.Uniform(-6.0 * jnp.ones(num_latents), 6.0).to_event(1))
    behavior("square", (z**2).sum(), Moments(num_latents / 2))


def peak_memory() -> float:
    """Return the largest memory of this process so far, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def isotropic(num_latents: int, limit: float | None) -> Iterator[Row]:
    """Converged, and the seconds and the memory of a process of its own."""
    result, _ = fit(DSN(circuit), 0, num_latents)
    result.print_summary()
    exact = num_latents / 2 * np.log(np.pi * np.e)
    row = Row(f"isotropic normal, {num_latents} latents", 0)
    row.that("converged", result.status.name == "CONVERGED", result.status.name.lower())
    row.at_most("GiB", peak_memory(), 3, ".2f")
    if limit is not None:
        row.within_seconds(limit)
    row.note("entropy", f"{result.entropy:.3f} of {exact:.3f}").note("gap", result.certificate.gap)
    row.note("violation", worst(result.measured.violation), ".4f")
    yield report(row, result)
