"""The published method gives the numbers that it gave at commit 33a8834."""

import inspect
from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer.autoguide import AutoDiagonalNormal
from numpyro.infer.initialization import init_to_value

from numpyro_dsn import DSN, PenaltyMethod, behavior
from numpyro_dsn.constraints import Moments
from tests.benchmarks.fits import fit
from tests.benchmarks.rows import Row

NUM_EPOCHS = 6
REFERENCE = {
    "entropy": [2.386699, 2.533594, 2.340392, 2.075885, 1.821727, 1.544244, 1.231464],
    "mean": [0.002226, 0.375724, 0.745631, 1.028938, 1.049298, 1.033765, 1.009183],
    "second moment": [2.376783, 2.113097, 1.426854, 1.034206, 0.77913, 0.572963, 0.414507],
    "lambda": [0.0, -0.062428, -0.164175, -0.117874, 0.197632, 1.062018, 2.002313],
    "second lambda": [0.0, 0.18631, 0.657052, 1.91178, 5.298213, 13.566073, 30.411549],
    "penalty": [0.1, 0.1, 0.4, 1.6, 6.4, 25.6, 102.4],
}
"""After the start and every epoch, of commit 33a8834 (this file's fit, run there)."""


def circuit() -> None:
    z = numpyro.sample("z", dist.Uniform(-2 * jnp.ones(2), 2.0).to_event(1))
    numpyro.deterministic("total", z.sum())


def total(sites) -> None:
    behavior("asked", sites["total"], Moments(1.0, std=0.5))


def penalty() -> Iterator[Row]:
    """Six epochs of a small fixed problem on NumPyro's own diagonal normal."""
    center = init_to_value(values={"z": jnp.zeros(2)})
    guide = AutoDiagonalNormal(circuit, init_loc_fn=center, init_scale=1.0)
    parameters = inspect.signature(DSN).parameters
    name = "multipliers" if "multipliers" in parameters else "method"
    method = {name: PenaltyMethod(0.1)}
    dsn = DSN(circuit, total, guide, **method, num_particles=200, num_steps=300)
    result, seconds = fit(dsn, 0, num_epochs=NUM_EPOCHS)
    epochs = result.history.epochs
    means, multipliers = (np.asarray(x, float)[:, 0] for x in (epochs.mean, epochs.multipliers))
    found = np.stack([np.asarray(epochs.entropy, float)[:, 0], *means.T, *multipliers.T,
                      np.asarray(epochs.penalty, float)[:, 0]])  # fmt: skip
    expected = np.array(list(REFERENCE.values()))[:, : found.shape[1]]
    # In parts of each number's largest value over the epochs.
    error = np.abs(found - expected) / np.abs(expected).max(1, keepdims=True)
    row = Row("penalty method, six epochs, as 33a8834", 0, seconds)
    row.at_most("largest difference", error.max(), 1e-3, ".1e")
    yield row.note("of", list(REFERENCE)[int(error.max(1).argmax())])
