"""Problems whose solution is known in closed form, each in a process of its own."""

from collections.abc import Iterator

import jax
import numpy as np

from numpyro_dsn import DSN
from tests.benchmarks.fits import eta_of, fit, report
from tests.benchmarks.rows import Row, worst
from tests.closed_forms import CLOSED_FORMS


def spreads(result, problem) -> np.ndarray:
    """Return the standard deviation of every element of T over the fit."""
    z = result.sample(jax.random.key(99), 20_000)["z"]
    statistics = jax.vmap(lambda z: problem.constraint.statistics(problem.statistic(z)))(z)
    return np.asarray(statistics).reshape(len(z), -1).std(0)


def closed_form(name: str) -> Iterator[Row]:
    """Entropy within 0.02 nats, natural parameters within 3 % of the largest."""
    problem = CLOSED_FORMS[name]
    result, _ = fit(DSN(problem.model, problem.behavior), 0)
    result.print_summary()
    spread, exact = spreads(result, problem), problem.natural_parameters
    size = np.max(np.abs(exact) * spread)
    error = np.max(np.abs(eta_of(result) - exact) * spread) / (size if size > 0 else 1.0)
    row = Row(name, 0).near("entropy", result.entropy, problem.entropy, 0.02)
    row.at_most("error of eta", error, 0.03, ".4f").within_seconds(30)
    row.note("violation", worst(result.measured.violation), ".4f")
    yield report(row, result)
