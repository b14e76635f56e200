"""One fit in several units: natural parameters per target unit are the same."""

from collections.abc import Iterator

import numpy as np
import numpyro
import numpyro.distributions as dist

from numpyro_dsn import DSN, behavior
from numpyro_dsn.constraints import Moments
from tests.benchmarks.fits import eta_of, fit, report
from tests.benchmarks.rows import Row, worst

MEAN, STD = 1.0, 0.6
UNITS = {
    "a current in A (1e-9 of it, latent too)": (1e-9, 1e-9),
    "a capacity in F (1e-12 of it, latent too)": (1e-12, 1e-12),
    "a statistic of 1e-9": (1.0, 1e-9),
    "a statistic of 1e-12": (1.0, 1e-12),
    "a statistic of 1e9": (1.0, 1e9),
}
"""Units of the latent and of the statistic."""


def circuit(latent: float, unit: float) -> None:
    current = numpyro.sample("current", dist.Uniform(0.0, 5.0 * latent))
    gain = numpyro.sample("gain", dist.Uniform(0.5, 1.5))
    value = gain * current * (unit / latent)
    behavior("output", value, Moments(mean=MEAN * unit, std=STD * unit))


def units() -> Iterator[Row]:
    """Fit in units of one, then in all others with the same seed."""
    reference = None
    for name, (latent, unit) in {"units of one": (1.0, 1.0), **UNITS}.items():
        result, seconds = fit(DSN(circuit), 0, latent, unit)
        eta = eta_of(result) * np.array([STD * unit, (STD * unit) ** 2])
        reference = eta if reference is None else reference
        error = np.max(np.abs(eta - reference)) / np.max(np.abs(reference))
        row = Row(name, 0, seconds).at_most("difference of eta", error, 1e-3, ".1e")
        row.note("eta per target unit", ", ".join(f"{e:.4f}" for e in eta))
        row.note("violation", worst(result.measured.violation), ".4f")
        yield report(row, result)
