"""What the draft says of silenced populations, as numbers with errors: spreads, curvature, inputs.

Every estimate is a mean over draws with weights, so that it can be had of a fit and of weighted
draws of the prior alike.
"""

from typing import Any, NamedTuple

import jax
import numpy as np

from models.v1_circuit import POPULATIONS, WEIGHTS
from numpyro_dsn import DSNResult, sensitivity

Sites = dict[str, Any]
"""Value of every site, NumPy arrays with a leading axis of draws."""

SENDERS = {"S": ("E", "V"), "V": ("P", "S")}
"""Populations whose input to a silent one the draft shows against gamma, in its Fig. 1E."""

NUM_DRAWS, NUM_CURVED, NEAR = 10_000, 200, 0.05
"""Draws of a fit; of those near gamma = 0, as many have second derivatives; what near is."""


class Estimate(NamedTuple):
    """A number and its standard error, each an array of one shape."""

    value: np.ndarray
    error: np.ndarray


def spread(values: np.ndarray, weights: np.ndarray) -> Estimate:
    """Return the standard deviation.

    Parameters
    ----------
    values
        Shape ``(num_draws, ...)``.
    weights
        Weights that sum to one, shape ``(num_draws,)``.
    """
    squares = (values - np.tensordot(weights, values, 1)) ** 2
    std = np.sqrt(np.tensordot(weights, squares, 1))
    influence = (squares - std**2) / (2 * std)
    return Estimate(std, np.sqrt(np.tensordot(weights**2, influence**2, 1)))


def slope(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> Estimate:
    """Return the slope of the regression of y on x, both and the weights of one shape."""
    x, y = x - weights @ x, y - weights @ y
    variance = weights @ x**2
    value = weights @ (x * y) / variance
    influence = x * (y - value * x) / variance
    return Estimate(value, np.sqrt(weights**2 @ influence**2))


def weight_spreads(sites: Sites, weights: np.ndarray) -> Estimate:
    """Return the standard deviation of every weight, shape ``(8,)``; the prior's is 5.77."""
    return spread(np.stack([sites[name] for name in WEIGHTS], -1), weights)


def input_trends(sites: Sites, weights: np.ndarray, population: str) -> dict[str, Estimate]:
    """Return the slope of each sender's input to a silent population against gamma."""
    receiver = POPULATIONS.index(population)

    def trend(sender: str) -> Estimate:
        received = sites["inputs"][:, receiver, POPULATIONS.index(sender)]
        return slope(sites["gamma"], received, weights)

    return {sender: trend(sender) for sender in SENDERS[population]}


def leading_shares(curvature: sensitivity.Curvature, num_vectors: int = 2) -> Estimate:
    """Return the share of every weight in the leading eigenvectors, its squared component.

    Parameters
    ----------
    curvature
        Of several circuits.
    num_vectors
        Number of eigenvectors.

    Returns
    -------
    Mean over circuits, shape ``(num_vectors, 8)``.
    """
    shares = curvature.eigenvectors[:, :num_vectors] ** 2
    return Estimate(shares.mean(0), shares.std(0) / np.sqrt(len(shares)))


def balanced(sites: Sites) -> Sites:
    """Return circuits with gamma near 0."""
    near = np.flatnonzero(np.abs(sites["gamma"]) < NEAR)[:NUM_CURVED]
    return {name: value[near] for name, value in sites.items()}


def print_statements(result: DSNResult, population: str) -> np.ndarray:
    """Print the summary, spreads, leading eigenvectors and input trends of fit and optimum.

    Spreads and trends of the optimum are those of all simulated circuits with its weights; its
    curvature is that of the exponential family at the same circuits as the flow's. That of the fit
    is the optimum's wherever draws are rejected; the flow alone is what remains of it elsewhere.

    Parameters
    ----------
    result
        A fit of :func:`models.v1.circuit`.
    population
        The silent one.

    Returns
    -------
    Median over circuits near gamma = 0 of the optimum's Hessian, shape ``(8, 8)``.
    """
    result.print_summary()
    keys = jax.random.split(jax.random.key(1))
    fitted = jax.tree.map(np.asarray, result.sample(keys[0], NUM_DRAWS))
    corrected, ess = result.draw_corrected(keys[1], NUM_DRAWS)
    corrected = jax.tree.map(np.asarray, corrected)
    size = 1 / (1 / float(ess) + 1 / NUM_DRAWS)
    near = balanced(fitted)
    curvatures = sensitivity.curvature(result, near), sensitivity.tilted_curvature(result, near)
    print(f"{'':24}" + "".join(f"{name:>12}" for name in WEIGHTS))
    for name, sites, num in (("fit", fitted, NUM_DRAWS), ("optimum", corrected, size)):
        even = np.full(NUM_DRAWS, 1 / NUM_DRAWS)
        inflate = np.sqrt(NUM_DRAWS / num)
        _print_row(f"sd, {name}", weight_spreads(sites, even), inflate)
        for sender, trend in input_trends(sites, even, population).items():
            print(
                f"{sender}-input to {population} per gamma, {name}: "
                f"{trend.value:+.3f} +- {trend.error * inflate:.3f}"
            )
    for name, found in zip(("flow alone", "optimum"), curvatures, strict=True):
        shares = leading_shares(found)
        for k, row in enumerate(zip(*shares, strict=True)):
            _print_row(f"share in v{k + 1}, {name}", Estimate(*row), 1.0)
    # Circuits that oscillate have derivatives without bound, which would rule a mean.
    return np.median(curvatures[1].hessian, axis=0)


def _print_row(label: str, estimate: Estimate, inflate: float) -> None:
    cells = zip(estimate.value, estimate.error * inflate, strict=True)
    print(f"{label:24}" + "".join(f"{value:6.2f} ±{error:4.2f}" for value, error in cells))
