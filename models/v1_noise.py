r"""Fluctuations of primary visual cortex: a stochastic stabilized supralinear network.

.. math:: \tau \dot r = -r + [W r + h + \epsilon]_+^2, \qquad
          \tau_n \dot \epsilon = -\epsilon + \sqrt{2 \tau_n} \tilde \sigma \xi, \qquad
          \tilde \sigma_\alpha = \sigma_\alpha \sqrt{1 + \tau / \tau_n}

Which noise in each population makes E fluctuate by 5 or 10 Hz? The published successor's second
circuit. Rates are in Hz, time is in ms.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import Array

from models.v1_circuit import POPULATIONS
from numpyro_dsn import DSN, DSNResult, DualNewton, behavior
from numpyro_dsn.constraints import Moments

MATRIX = 0.1 * np.array(
    [
        [2.18, -1.19, -0.594, -0.229],
        [1.66, -0.651, -0.680, -0.242],
        [0.895, -5.22e-3, -1.51e-4, -0.761],
        [3.34, -2.31, -0.254, -2.52e-4],
    ]
)
BASELINE, CONTRAST = np.array([4.16, 4.29, 4.91, 4.86]), np.array([3.59, 4.03, 0.0, 0.0])
"""Inputs without a stimulus, and what full contrast adds."""

BOX = 0.05
"""Bound on every sigma. The published support of 0.5 is in other units than its rates: there the
property is all but impossible, and the published figures show sigma below 0.05."""

TAU, TAU_NOISE, DT = 1.0, 5.0, 0.5
NUM_STEPS, NUM_MEASURED = 200, 50
"""Steps of 0.5 ms, and those at the end over which fluctuations are measured."""

NUM_TRIALS = 100
METHOD = DualNewton(num_replicates=8)
"""Eight runs of each circuit: a run of 100 trials is off by 0.2 Hz at 5 Hz, by 0.6 Hz at 10 Hz."""

STD = 1.0
"""Standard deviation in Hz that is asked for."""

CEILING = 1000.0
"""Rate in Hz that is not exceeded, as published."""


def slope(rates: Array, inputs: Array) -> Array:
    """Return the time derivative of the rates in Hz/ms, each of shape ``(..., 4)``."""
    return (jax.nn.relu(rates @ jnp.asarray(MATRIX.T, rates.dtype) + inputs) ** 2 - rates) / TAU


def inputs_at(contrast: float) -> np.ndarray:
    """Return the mean inputs at a contrast between 0 and 1, shape ``(4,)``."""
    return BASELINE + contrast * CONTRAST


def fluctuation(
    rng_key: Array, sigma: Array, num_trials: int = NUM_TRIALS, contrast: float = 0.5
) -> Array:
    """Return the standard deviation over time of E's rate, a mean over trials, in Hz.

    Euler's method with fixed steps; trials start at rates between 10 and 25 Hz without noise.

    Parameters
    ----------
    rng_key
        Key of all trials.
    sigma
        Noise of E, P, S and V, shape ``(4,)``.
    num_trials
        Number of trials.
    contrast
        Contrast of the stimulus.
    """
    start_key, noise_key = jax.random.split(rng_key)
    shape = num_trials, len(POPULATIONS)
    rates = jax.random.uniform(start_key, shape, minval=10.0, maxval=25.0)
    mean = jnp.asarray(inputs_at(contrast), rates.dtype)[None]
    size = (jnp.sqrt(2 * DT / TAU_NOISE) * jnp.sqrt(1 + TAU / TAU_NOISE) * sigma)[None]

    def step(carry: tuple, key: Array) -> tuple[tuple, Array]:
        rates, noise = carry
        rates = jnp.clip(rates + DT * slope(rates, mean + noise), 0.0, CEILING)
        noise = noise * (1 - DT / TAU_NOISE) + size * jax.random.normal(key, shape)
        return (rates, noise), rates[:, 0]

    keys = jax.random.split(noise_key, NUM_STEPS)
    _, excitatory = jax.lax.scan(step, (rates, jnp.zeros(shape)), keys)
    return jnp.std(excitatory[-NUM_MEASURED:], axis=0).mean()


def circuit() -> None:
    """Draw the noise of each population from a flat prior and record how much E fluctuates."""
    prior = dist.Uniform(jnp.zeros(len(POPULATIONS)), BOX).to_event(1)
    sigma = numpyro.sample("sigma", prior, infer={"event_dims": ["population"]})
    numpyro.deterministic("fluctuation", fluctuation(numpyro.prng_key(), sigma))


def fluctuating(sites: dict[str, Array], mean: float) -> None:
    """Ask for fluctuations of a mean in Hz with a standard deviation of 1 Hz."""
    behavior("fluctuation", sites["fluctuation"], Moments(mean=mean, std=STD))


def fit(mean: float, seed: int) -> DSNResult:
    """Fit fluctuations of 5 or 10 Hz.

    Parameters
    ----------
    mean
        Mean of the fluctuations in Hz.
    seed
        Seed of the run.
    """
    dsn = DSN(circuit, partial(fluctuating, mean=mean), method=METHOD)
    return dsn.run(jax.random.key(seed))


def responses(contrast: float = 0.5, step: float = 0.02) -> np.ndarray:
    """Return by how much each population's steady rate rises with input to itself.

    Negative for a paradoxical population.

    Parameters
    ----------
    contrast
        Contrast of the stimulus.
    step
        Change of the input.

    Returns
    -------
    In Hz for each unit of input, shape ``(4,)``.
    """

    def steady(inputs: Array) -> Array:
        def advance(rates: Array, _: None) -> tuple[Array, None]:
            return rates + 0.1 * DT * slope(rates, inputs), None

        return jax.lax.scan(advance, jnp.full(len(POPULATIONS), 20.0), length=4000)[0]

    mean = jnp.asarray(inputs_at(contrast), float)
    change = jax.vmap(steady)(mean[None] + step * jnp.eye(len(POPULATIONS))) - steady(mean)[None]
    return np.diag(np.asarray(change)) / step


def print_statements(result: DSNResult) -> None:
    """Print the summary, moments of the noise, its trade-off, and what is paradoxical."""
    result.print_summary()
    sigma = np.asarray(result.sample(jax.random.key(1), 4000)["sigma"])
    error = 1 / np.sqrt(len(sigma))
    print("sigma of " + ", ".join(POPULATIONS))
    print(f"  mean {_row(sigma.mean(0), 4)}, sd {_row(sigma.std(0), 4)}")
    print(f"  correlation of E and P {np.corrcoef(sigma[:, :2].T)[0, 1]:+.2f} +- {error:.2f}")
    for name, pair in (("E, P", slice(0, 2)), ("S, V", slice(2, 4))):
        square = np.sum(sigma[:, pair] ** 2, axis=1)
        print(f"  sum of squares of {name}: {square.mean():.2e} +- {square.std() * error:.0e}")
    print(f"self-response in Hz per unit: {_row(responses(), 1)}")


def to_data(result: DSNResult) -> Any:
    """Return InferenceData or DataTree with the names of the populations."""
    return result.to_inference_data(coords={"population": list(POPULATIONS)})


def _row(values: np.ndarray, digits: int) -> str:
    return " ".join(f"{value:.{digits}f}" for value in values)
