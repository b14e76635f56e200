"""Finite networks of low rank: what mean-field theory is checked against."""

from typing import NamedTuple

import numpy as np

DT, SETTLING, DURATION = 0.1, 100.0, 200.0
"""Euler's step, time that is left out, and time that is measured, in time constants."""


class Activity(NamedTuple):
    """What a network does, after it has settled.

    Parameters
    ----------
    mean
        Mean activity over neurons and time.
    overlaps
        Mean over neurons of every n times the rate, shape ``(rank,)``.
    static, temporal
        Variance over neurons of mean activities, and mean over neurons of the variance in time.
    rates
        Mean rate of every neuron, shape ``(num_neurons,)``.
    """

    mean: float
    overlaps: np.ndarray
    static: float
    temporal: float
    rates: np.ndarray


def run(
    rng: np.random.Generator, g: float, m: np.ndarray, n: np.ndarray, inputs: np.ndarray
) -> Activity:
    """Simulate a network of random strength g and of a low-rank part, from silence.

    Parameters
    ----------
    rng
        Generator of the random part.
    g
        Strength of the random part.
    m, n
        Vectors of the other part, shape ``(num_neurons, rank)``.
    inputs
        Constant input of every neuron, shape ``(num_neurons,)``.
    """
    size = len(m)
    random = (g / np.sqrt(size) * rng.standard_normal((size, size))).astype(np.float32)
    left, right = m.astype(np.float32), n.astype(np.float32) / size
    x, constant = np.zeros(size, np.float32), inputs.astype(np.float32)
    kept = []
    for step in range(round((SETTLING + DURATION) / DT)):
        rates = np.tanh(x)
        if step * DT >= SETTLING:
            kept.append((x, rates))
        x = x + np.float32(DT) * (random @ rates + left @ (right.T @ rates) + constant - x)
    activity, rates = (np.stack(part).astype(float) for part in zip(*kept, strict=True))
    mean_rates = rates.mean(0)
    return Activity(
        mean=activity.mean(),
        overlaps=n.T @ mean_rates / size,
        static=activity.mean(0).var(),
        temporal=activity.var(0).mean(),
        rates=mean_rates,
    )
