r"""The four populations of primary visual cortex of the draft's section 3.2.

.. math:: \tau \dot r = -r + [W r + h]_+^2

Excitatory (E) and parvalbumin- (P), somatostatin- (S) and VIP-expressing (V) neurons. Rates and
weights have no dimension; time is in s.
"""

import jax
import jax.numpy as jnp
from jax import Array

POPULATIONS = ("E", "P", "S", "V")

WEIGHTS = ("W_*E", "W_EP", "W_PP", "W_VP", "W_ES", "W_PS", "W_VS", "W_SV")
"""Names of the free weights, to and from; E excites the other three by one weight."""

W_EE = 1.0
TAU, INPUT = 0.02, 1.0
"""Time constant in s and the input h of every population."""

NUM_STEPS, DT = 99, 0.005
"""Steps of the integrator and their size in s: 100 points from 0 to 0.495 s."""

RUN_AWAY = 1e3
"""Rate beyond which a circuit has run away: it has no steady state."""

Weights = dict[str, Array]


def weight_matrix(weights: Weights) -> Array:
    r"""Return W with the signs of Dale's law, to a row from a column.

    .. math:: W = \begin{pmatrix} W_{EE} & -W_{EP} & -W_{ES} & 0 \\
              W_{*E} & -W_{PP} & -W_{PS} & 0 \\
              W_{*E} & 0 & 0 & -W_{SV} \\
              W_{*E} & -W_{VP} & -W_{VS} & 0 \end{pmatrix}

    Parameters
    ----------
    weights
        Value of each of :data:`WEIGHTS`, not negative, each of shape ``()``.

    Returns
    -------
    Shape ``(4, 4)``.

    References
    ----------
    Pfeffer et al. (2013), for the connections that are missing.
    """
    xe, ep, pp, vp, es, ps, vs, sv = (weights[name] for name in WEIGHTS)
    rows = [[W_EE, -ep, -es, 0.0], [xe, -pp, -ps, 0.0], [xe, 0.0, 0.0, -sv], [xe, -vp, -vs, 0.0]]
    return jnp.array(rows)


def slope(matrix: Array, rates: Array) -> Array:
    """Return the time derivative of the rates in 1/s, shape ``(4,)``."""
    return (jax.nn.relu(matrix @ rates + INPUT) ** 2 - rates) / TAU


def final_rates(matrix: Array) -> Array:
    """Return the rates after half a second, from one for every population.

    Runge and Kutta's method with fixed steps, as published. A circuit that runs away gets NaN.

    Parameters
    ----------
    matrix
        W, shape ``(4, 4)``.

    Returns
    -------
    Rates of E, P, S and V, shape ``(4,)``.
    """

    def step(rates: Array, _: None) -> tuple[Array, None]:
        k1 = slope(matrix, rates)
        k2 = slope(matrix, rates + DT / 2 * k1)
        k3 = slope(matrix, rates + DT / 2 * k2)
        k4 = slope(matrix, rates + DT * k3)
        # What runs away stays finite, so that it does not make gradients NaN.
        new = jnp.clip(rates + DT / 6 * (k1 + 2 * k2 + 2 * k3 + k4), -1e4, 1e4)
        return new, None

    rates = jax.lax.scan(step, jnp.ones(len(POPULATIONS)), length=NUM_STEPS)[0]
    return jnp.where(jnp.max(jnp.abs(rates)) > RUN_AWAY, jnp.nan, rates)


def isn_coefficient(rate: Array) -> Array:
    r"""Return gamma, negative where inhibition stabilizes the excitatory population.

    .. math:: \gamma = 1 - f'(f^{-1}(r_E)) W_{EE} = 1 - 2 \sqrt{r_E} W_{EE}

    Parameters
    ----------
    rate
        :math:`r_E`, with any shape.
    """
    positive = rate > 1e-12
    return 1 - 2 * W_EE * jnp.where(positive, jnp.sqrt(jnp.where(positive, rate, 1.0)), 0.0)
