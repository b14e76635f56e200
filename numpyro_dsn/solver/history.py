"""What is recorded while a fit runs."""

from typing import Any, NamedTuple

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
        Unit of T: what was asked of its spread, or its spread over the prior if nothing was, shape
        ``(num_constraints,)``.
    violation
        Distance of E[T] from what was asked, in units of ``scale``, shape ``(num_constraints,)``.
    multipliers
        lambda after the epoch, shape ``(num_constraints,)``.
    penalty
        c during the epoch, shape ``()``.
    converged
        Whether the convergence test was passed, shape ``()``.
    nonfinite
        Fraction of draws whose statistics were NaN or infinite, shape ``()``.
    failed
        The same for each statistic, shape ``(num_constraints,)``.
    beyond
        Fraction of draws at which each statistic is so far from its target that it is bounded,
        shape ``(num_constraints,)``.
    skipped
        Fraction of steps without an update, because the gradient was not finite, shape ``()``.
    dual_bound
        Upper bound on minus the KL to the prior, in nats, shape ``()``; NaN if unknown.
    gap, gap_se
        KL divergence to the tilted prior and its standard error, in nats, shape ``()``; more by
        what it costs to meet an inequality further than its bound. NaN if unknown.
    ess
        Effective sample size of the draws behind the bound, shape ``()``; NaN if unknown.
    acceptance
        Fraction of the flow's draws that the circuit keeps, shape ``()``.
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
    failed: Array
    beyond: Array
    skipped: Array
    dual_bound: Array
    gap: Array
    gap_se: Array
    ess: Array
    acceptance: Array
    num_simulations: Array


class StepRecords(NamedTuple):
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
    """All epochs so far, epoch 0 being the start; and the records of the steps between them.

    epochs
        :class:`Epoch` of arrays with leading axes ``(num_epochs + 1, num_chains)``.
    steps
        :class:`StepRecords` of arrays with leading axes ``(num_records, num_chains)``.
    seconds
        What each epoch of all chains took, compilation included, shape ``(num_epochs + 1,)``.
    """

    epochs: Epoch
    steps: StepRecords
    seconds: np.ndarray


def empty_epoch(num_constraints: int) -> Epoch:
    """Return measurements of zeros, for their shapes and types."""
    vectors = ("mean", "mean_se", "scale", "violation", "multipliers", "failed", "beyond")
    zeros: dict[str, Any] = {
        name: np.zeros(num_constraints) if name in vectors else 0.0 for name in Epoch._fields
    }
    return Epoch(**zeros | {"converged": np.zeros((), bool)})


def start_history(epochs: list[Epoch], seconds: float) -> History:
    """Return a history that holds the start alone, given the measurements of every fit."""
    epoch = _stack(epochs)
    num_chains, num_constraints = epoch.mean.shape[1:]
    empty = np.zeros((0, num_chains))
    steps = StepRecords(empty, empty, np.zeros((0, num_chains, num_constraints)))
    return History(epoch, steps, np.array([seconds]))


def extend_history(
    history: History, epochs: list[Epoch], steps: list[StepRecords], seconds: float
) -> History:
    """Return the history with one more epoch.

    Parameters
    ----------
    history
        What was recorded so far.
    epochs
        Measurements of every fit.
    steps
        Records of every fit, one for each step.
    seconds
        What the epoch took.
    """
    records = [_averaged(of_one) for of_one in steps]
    joined = jax.tree.map(lambda *leaves: np.stack(leaves, axis=1), *records)
    more = History(_stack(epochs), joined, np.array([seconds]))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), history, more)


def _stack(epochs: list[Epoch]) -> Epoch:
    return jax.tree.map(lambda *leaves: np.stack([np.asarray(x) for x in leaves])[None], *epochs)


def _averaged(steps: StepRecords) -> StepRecords:
    """Return records of a few steps each."""
    num_steps = len(steps.step)
    blocks = np.array_split(np.arange(num_steps), min(num_steps, RECORDS_PER_EPOCH))

    def average(leaf: Array | np.ndarray) -> np.ndarray:
        return np.stack([np.asarray(leaf)[block].mean(0) for block in blocks])

    last = np.asarray(steps.step)[[block[-1] for block in blocks]].astype(float)
    return StepRecords(last, average(steps.entropy), average(steps.mean))
