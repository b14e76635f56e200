"""Poor and good fits of closed forms: the certificate's gap covers their distance to it."""

import inspect
from collections.abc import Iterator

import jax
import numpy as np
from numpyro.infer.autoguide import AutoDiagonalNormal

from numpyro_dsn import DSN
from tests.benchmarks.rows import Row
from tests.closed_forms import CLOSED_FORMS

NAMES = ["truncated exponential", "laplace", "double well", "gaussian"]
GUIDES = {"default": None, "too small": AutoDiagonalNormal}
FITS = [(seed, num_epochs) for seed in range(2) for num_epochs in (1, 2, 6)]
"""48 fits in all: 4 problems, 2 flows, 2 seeds, stopped at once, early, or late."""
NUM_DRAWS = 20_000


def short_dsn(problem, guide: str) -> DSN:
    """Return a DSN of short epochs, where their length can be chosen."""
    make = GUIDES[guide]
    can_choose = "num_steps" in inspect.signature(DSN).parameters
    settings = {"num_steps": 200} if can_choose else {}
    flow = None if make is None else make(problem.model)
    return DSN(problem.model, problem.behavior, flow, **settings)


def true_distance(result, problem) -> tuple[float, float]:
    """Return the KL to the exact optimum on fresh draws, and its standard error, in nats."""
    z = result.sample(jax.random.key(7), NUM_DRAWS)["z"]
    statistics = jax.vmap(lambda z: problem.constraint.statistics(problem.statistic(z)))(z)
    above = np.asarray(statistics) - np.asarray(problem.constraint.bounds()[0])
    log_optimum = above @ problem.natural_parameters - problem.entropy
    ratio = np.asarray(result.log_prob({"z": z})) - log_optimum
    return float(ratio.mean()), float(ratio.std() / np.sqrt(NUM_DRAWS))


def judge(result, problem) -> tuple[bool, bool, str]:
    """Return whether the gap covers or the verdict warns; whether it is wrong; and a line."""
    (distance, error), certificate = true_distance(result, problem), result.certificate
    is_close = certificate.verdict.startswith("Close")
    is_within = abs(certificate.gap - distance) <= 2 * np.hypot(certificate.gap_se, error) + 0.01
    line = (
        f"distance {distance:.3f} +- {error:.3f}, gap {certificate.gap:.3f} +- "
        f"{certificate.gap_se:.3f}, k {certificate.pareto_k:.2f}, {certificate.verdict}"
    )
    is_covered = bool(is_within or not is_close or certificate.pareto_k > 0.7)
    return is_covered, bool(is_close and not distance < 0.15), line


def calibration(name: str) -> Iterator[Row]:
    """Twelve of the 48 fits."""
    problem, covered, wrong = CLOSED_FORMS[name], [], []
    for guide in GUIDES:
        dsn = short_dsn(problem, guide)
        for seed, num_epochs in FITS:
            key = jax.random.key(seed)
            result = dsn.run(key, num_epochs=num_epochs, progress_bar=False)
            is_covered, is_wrong, line = judge(result, problem)
            print(f"{name}, {guide}, seed {seed}, {num_epochs} epochs: {line}", flush=True)
            covered.append(is_covered)
            wrong.append(is_wrong)
    row = Row(f"calibration, {name}, {len(covered)} fits")
    row.at_most("poor fits called close", sum(wrong), 0, "g")
    yield row.between("covered or warned of", np.mean(covered), 0.95, 1, ".2f")
