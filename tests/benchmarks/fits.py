"""What all problems do: fit with default settings, and put a fit into a row."""

import os
import time
from typing import Any

import jax
import numpy as np

from numpyro_dsn import DSN
from tests.benchmarks.rows import Row, worst

GAP, VIOLATION = 0.05, 0.02
"""Tolerances of the default, in nats and in target units."""


def fit(dsn: DSN, seed: int, *args: Any, **kwargs: Any) -> tuple[Any, float]:
    """Return a fit and its seconds. ``BENCHMARK_EPOCHS=1`` tries out a benchmark itself."""
    if "BENCHMARK_EPOCHS" in os.environ:
        kwargs["num_epochs"] = int(os.environ["BENCHMARK_EPOCHS"])
    began = time.perf_counter()
    result = dsn.run(jax.random.key(seed), *args, progress_bar=False, **kwargs)
    return result, time.perf_counter() - began


def eta_of(result: Any) -> np.ndarray:
    """Return the natural parameters of the certificate, in nats per unit of T."""
    return np.array(list(result.certificate.natural_parameters.values()))


def gaps_of(result: Any) -> np.ndarray:
    """Return the gap after the start and after every epoch of the only chain, in nats."""
    return np.asarray(result.history.epochs.gap, float).reshape(len(result.history.seconds), -1)[
        :, 0
    ]


def simulations_of(result: Any) -> float:
    """Return how many circuits a fit simulated."""
    return float(np.sum(np.asarray(result.history.epochs.num_simulations, float)))


def seconds_to(result: Any, gap: float = GAP) -> float:
    """Return the seconds of a fit until its gap was reached for the first time; NaN if never.

    The start is no fit: its gap is that of the prior to itself.
    """
    reached = np.flatnonzero(gaps_of(result)[1:] <= gap)
    return float(np.cumsum(result.history.seconds)[1 + reached[0]]) if len(reached) else np.nan


def epochs_of(result: Any) -> int:
    """Return the number of epochs."""
    return len(result.history.seconds) - 1


def report(row: Row, result: Any) -> Row:
    """Add what is reported of every fit."""
    certificate = result.certificate
    row.note("", f"{result.status.name.lower().replace('_', ' ')}, {epochs_of(result)} epochs")
    row.numbers |= {
        "entropy": float(result.entropy),
        "kl_to_prior": float(result.kl_to_prior),
        "violation": worst(result.measured.violation),
        "gap": float(certificate.gap),
        "gap_se": float(certificate.gap_se),
        "dual_bound": float(certificate.dual_bound),
        "pareto_k": float(certificate.pareto_k),
        "missed_mass": float(certificate.missed_mass),
        "simulations": simulations_of(result),
    }
    return row
