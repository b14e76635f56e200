r"""A network of rank two that takes the stimulus to which the context points.

.. math:: m_1 = y_A + \rho_m I^c_A + \beta_m w, \quad m_2 = y_B + \rho_m I^c_B + \beta_m w, \\
          n_1 = I_A + \rho_n I^c_A + \beta_n w, \quad n_2 = I_B + \rho_n I^c_B + \beta_n w

All vectors are random; y and I have the variance 1.44, contexts and the readout w the variance 1.
After Mastrogiuseppe and Ostojic (2018), section "context-dependent discrimination".
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from models.rnn_theory import average, sech2

G = 0.8
"""Strength of the random part: below one, so that nothing fluctuates in time."""

STD = 1.2
"""Standard deviation of the entries of y and of the stimuli."""

LOW, HIGH = -0.14, 0.08
"""Input along the context that is not asked for, and along the one that is."""

NUM_STEPS, RATE = 200, 0.2
"""Published steps to the fixed point and their damping."""


class Loadings(NamedTuple):
    """What contexts (rho) and readout (beta) have of the vectors m and n."""

    rho_m: Array
    rho_n: Array
    beta_m: Array
    beta_n: Array


class State(NamedTuple):
    """Overlaps of both parts, shape ``(2,)``, and the variance of activities."""

    overlaps: Array
    variance: Array


def drive(state: State, loadings: Loadings, stimuli: Array, contexts: Array) -> State:
    r"""Return overlaps and variance that a state brings forth.

    .. math:: \kappa_k \gets \langle \phi' \rangle \,
              [ S^2 c_k + \rho_n (\rho_m \kappa_k + \gamma_k)
              + \beta_n \beta_m (\kappa_1 + \kappa_2) ], \\
              \Delta \gets g^2 \langle \phi^2 \rangle + S^2 \sum_k (\kappa_k^2 + c_k^2)
              + \sum_k (\rho_m \kappa_k + \gamma_k)^2 + \beta_m^2 (\kappa_1 + \kappa_2)^2

    The published code has :math:`\beta_m^2 (\kappa_1^2 + \kappa_2^2)`, without the product of the
    overlaps: both parts share w. Networks show it (``tests/test_rnn_context.py``).

    Parameters
    ----------
    state
        Overlaps and variance.
    loadings
        Parameters, scalars.
    stimuli, contexts
        c and gamma of A and B, shape ``(2,)``.
    """
    kappa, zero = state.overlaps, jnp.zeros(())
    total = loadings.beta_m * kappa.sum()
    along = loadings.rho_m * kappa + contexts
    field = STD**2 * stimuli + loadings.rho_n * along + loadings.beta_n * total
    random = G**2 * average(lambda x: jnp.tanh(x) ** 2, zero, state.variance)
    quenched = STD**2 * (kappa**2 + stimuli**2).sum() + (along**2).sum() + total**2
    return State(field * average(sech2, zero, state.variance), random + quenched)


def settle(loadings: Loadings, stimuli: Array, contexts: Array) -> State:
    """Return the state to which a network comes from silence.

    Parameters
    ----------
    loadings
        Parameters, scalars.
    stimuli, contexts
        Strength of A and B, shape ``(2,)``.
    """

    def step(state: State, _: None) -> tuple[State, None]:
        target = drive(state, loadings, stimuli, contexts)
        return jax.tree.map(lambda old, new: old + RATE * (new - old), state, target), None

    return jax.lax.scan(step, State(jnp.zeros(2), jnp.ones(())), length=NUM_STEPS)[0]


def readout(loadings: Loadings, stimuli: Array, contexts: Array) -> Array:
    """Return the mean of w times the rate of a settled network; arguments as of :func:`settle`."""
    state = settle(loadings, stimuli, contexts)
    total = loadings.beta_m * state.overlaps.sum()
    return total * average(sech2, jnp.zeros(()), state.variance)
