"""What is recorded while a fit runs."""

from typing import NamedTuple

import jax
import numpy as np
from jax import Array

RECORDS_PER_EPOCH = 50


class Epoch(NamedTuple):
    """What was measured on fresh draws after an epoch.

    Shapes are those of one fit; the history stacks epochs and chains in front.

    entropy, kl_to_prior
        Entropy on the constrained space and KL to the prior, in nats, shape ``()``.
    entropy_se
        Standard error of both, shape ``()``.
    mean, mean_se
        E[T] and its standard error, shape ``(num_constraints,)``.
    scale
        Standard deviation of T over the fit, shape ``(num_constraints,)``.
    violation
        Distance of E[T] from what was asked, in units of ``scale``, shape ``(num_constraints,)``.
    multipliers
        lambda after the epoch, shape ``(num_constraints,)``.
    penalty
        c during the epoch, shape ``()``.
    converged
        Whether the convergence test was passed, shape ``()``.
    nonfinite
        Share of draws whose statistics were NaN or infinite, shape ``()``.
    skipped
        Share of steps without an update, because the gradient was not finite, shape ``()``.
    dual_bound
        Upper bound on minus the KL to the prior, in nats, shape ``()``; NaN if unknown.
    gap, gap_se
        KL divergence to the tilted prior and its standard error, in nats, shape ``()``; more by
        what it costs to meet an inequality further than its bound. NaN if unknown.
    ess
        Effective sample size of the draws behind the bound, shape ``()``; NaN if unknown.
    num_simulations
        Simulations of the circuit since the epoch before, shape ``()``.
    """

    entropy: Array
    kl_to_prior: Array
    entropy_se: Array
    mean: Array
    mean_se: Array
    scale: Array
    violation: Array
    multipliers: Array
    penalty: Array
    converged: Array
    nonfinite: Array
    skipped: Array
    dual_bound: Array
    gap: Array
    gap_se: Array
    ess: Array
    num_simulations: Array


class Trace(NamedTuple):
    """What was measured on the training draws, averaged over a few steps each.

    step
        Last step of each average, counted from the start, shape ``(num_records,)``.
    entropy
        Entropy in nats, shape ``(num_records,)``.
    mean
        E[T], shape ``(num_records, num_constraints)``.
    """

    step: Array | np.ndarray
    entropy: Array | np.ndarray
    mean: Array | np.ndarray


class History(NamedTuple):
    """All epochs so far, epoch 0 being the start; and the trace of the steps between them.

    epochs
        :class:`Epoch` of arrays with leading axes ``(num_epochs + 1, num_chains)``.
    trace
        :class:`Trace` of arrays with leading axes ``(num_records, num_chains)``.
    seconds
        What each epoch of all chains took, compilation included, shape ``(num_epochs + 1,)``.
    """

    epochs: Epoch
    trace: Trace
    seconds: np.ndarray


def start_history(epoch: Epoch, seconds: float) -> History:
    """Return a history that holds the start alone, given measurements of ``num_chains`` fits."""
    epoch = jax.tree.map(lambda leaf: np.asarray(leaf)[None], epoch)
    num_chains, num_constraints = epoch.mean.shape[1:]
    empty = np.zeros((0, num_chains))
    trace = Trace(empty, empty, np.zeros((0, num_chains, num_constraints)))
    return History(epoch, trace, np.array([seconds]))


def extend_history(history: History, epoch: Epoch, steps: Trace, seconds: float) -> History:
    """Return the history with one more epoch.

    Parameters
    ----------
    history
        What was recorded so far.
    epoch
        Measurements with a leading axis ``num_chains``.
    steps
        One record for each step, with leading axes ``(num_chains, num_steps)``.
    seconds
        What the epoch took.
    """
    num_steps = steps.step.shape[1]
    blocks = np.array_split(np.arange(num_steps), min(num_steps, RECORDS_PER_EPOCH))

    def average(leaf: Array | np.ndarray) -> np.ndarray:
        by_step = np.swapaxes(np.asarray(leaf), 0, 1)
        return np.stack([by_step[block].mean(0) for block in blocks])

    last = np.asarray(steps.step)[:, [block[-1] for block in blocks]].T.astype(float)
    trace = Trace(last, average(steps.entropy), average(steps.mean))
    epoch = jax.tree.map(lambda leaf: np.asarray(leaf)[None], epoch)
    more = History(epoch, trace, np.array([seconds]))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), history, more)
