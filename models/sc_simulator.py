r"""Four populations of superior colliculus that decide where to go, and their Schur modes.

.. math:: \tau \dot u = -u + W v + I(t) + \sigma \xi, \qquad
          v = \gamma(t) \left[ \tfrac12 \tanh\frac{u - \theta}{\beta} + \tfrac12 \right]

Units are Pro (P) and Anti (A) neurons of the left (L) and the right (R) hemisphere. In a Pro trial
the animal goes to the light, in an Anti trial away from it; the light is always on the left. The
side that wins at the end is where the animal goes: ``LP`` means to the left.

Activities are dimensionless, times are in s. Every array over units has the order of ``UNITS``,
every array over tasks that of ``TASKS``.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

UNITS = ("LP", "LA", "RA", "RP")
TASKS = ("Pro", "Anti")
MODES = ("all", "side", "task", "diag")
MODE_VECTORS = np.array([[1, 1, 1, 1], [-1, -1, 1, 1], [1, -1, -1, 1], [-1, 1, -1, 1]]) / 2
"""Orthonormal rows: which units a mode drives together, and which against each other."""

TIME_STEP = 0.024
NUM_STEPS = 74
TAU = 0.09
THRESHOLD = 0.05
SLOPE = 0.5
START = 0.1
SHARPNESS = 100.0
LP, RP = UNITS.index("LP"), UNITS.index("RP")
DECISION = 1.2
"""End of cue and delay, in s: the light comes on and the animal may go."""


class Protocol(NamedTuple):
    """Inputs of a trial, dimensionless.

    constant
        To all units, always.
    pro_bias
        To the Pro units, always.
    rule
        To the units of the trial's task, until the decision.
    choice
        To all units, from the decision.
    light
        To the left units, from the decision until ``light_end``.
    light_end
        In s.
    noise
        Standard deviation of the noise of every step.
    start_noise
        Standard deviation of the first activity.
    """

    constant: float
    pro_bias: float
    rule: float
    choice: float
    light: float
    light_end: float
    noise: float
    start_noise: float


DRAFT = Protocol(0.0, 0.0, 10.0, 2.0, 1.0, np.inf, 1.0, 0.0)
"""The draft's code at the time of the draft."""

SUCCESSOR = Protocol(0.75, 0.5, 0.6, 0.25, 0.5, 1.5, 0.2, 0.005)
"""The published successor's, eLife 10:e56265."""


class Inactivation(NamedTuple):
    """Optogenetic silencing: activities are multiplied by ``1 - strength``.

    strength
        Share of the activity that is lost.
    start, end
        In s, both included.
    """

    strength: float = 0.0
    start: float = 0.8
    end: float = DECISION


PERIODS = {"delay": (0.8, DECISION), "choice": (DECISION, np.inf), "total": (0.0, np.inf)}
"""Start and end of the periods of the experiment, in s."""


class Responses(NamedTuple):
    """What the animal does, averaged over the trials of each task; arrays of shape ``(2,)``.

    accuracy
        Share of trials in which the Pro unit of the correct side wins.
    accuracy_square
        Estimate of the square of the accuracy of infinitely many trials, without bias.
    accuracy_variance
        Variance over trials of the same, without bias: s^2 of a single trial.
    response, response_square, response_variance
        Mean activity of that unit, and the same of it.
    indecision
        Mean of v (1 - v) of that unit: how much the variance of v falls short of m (1 - m), that
        of a response which is either 0 or 1 with mean m.
    contrast
        Mean of the squared difference of the two Pro units: 1 if the winner takes all.
    """

    accuracy: Array
    accuracy_square: Array
    accuracy_variance: Array
    response: Array
    response_square: Array
    response_variance: Array
    indecision: Array
    contrast: Array


def weight_matrix(z: Array) -> Array:
    r"""Return the weights between units, the same in both hemispheres.

    Parameters
    ----------
    z
        Weights onto Pro and onto Anti units: self :math:`s_P, s_A`, from the other task on the
        same side :math:`v_{PA}, v_{AP}`, from the other task on the other side
        :math:`d_{PA}, d_{AP}`, from the same task on the other side :math:`h_P, h_A`. Shape
        ``(8,)``.

    Returns
    -------
    W, from column to row, shape ``(4, 4)``.
    """
    s_p, s_a, v_pa, v_ap, d_pa, d_ap, h_p, h_a = z
    left_pro, left_anti = [s_p, v_pa, d_pa, h_p], [v_ap, s_a, h_a, d_ap]
    return jnp.stack(
        [jnp.stack(row) for row in (left_pro, left_anti, left_anti[::-1], left_pro[::-1])]
    )


def symmetric_weight_matrix(z: Array) -> Array:
    """Return the weights between units, the same for both tasks and hemispheres.

    Parameters
    ----------
    z
        Weights sW, vW, hW, dW (self, vertical, horizontal, diagonal), shape ``(4,)``.

    Returns
    -------
    W, from column to row, shape ``(4, 4)``.
    """
    s, v, h, d = z
    return weight_matrix(jnp.stack([s, s, v, v, d, d, h, h]))


def mode_eigenvalues(weights: Array) -> Array:
    r"""Return the real parts of the eigenvalues, by mode.

    .. math:: \lambda = m \pm \sqrt{\left(\tfrac{a - d}{2}\right)^2 + b c}, \qquad
              \begin{pmatrix} a & b \\ c & d \end{pmatrix} =
              \begin{pmatrix} s_P \pm h_P & v_{PA} \pm d_{PA} \\
                              v_{AP} \pm d_{AP} & s_A \pm h_A \end{pmatrix}

    Hemispheres are alike, so activity that both share (all, task; upper sign) and activity in
    which they differ (side, diag; lower sign) do not mix. If the tasks are alike too, the rows of
    ``MODE_VECTORS`` are the eigenvectors whatever the weights are, and the eigenvalues are
    :math:`s \pm v \pm h \pm d`. Otherwise the eigenvectors depend on the weights; then all and side
    name the eigenvalue that is closer to the gain of that vector.

    Parameters
    ----------
    weights
        W of :func:`weight_matrix`, shape ``(4, 4)``.

    Returns
    -------
    Eigenvalues in the order of ``MODES``, shape ``(4,)``.

    References
    ----------
    The draft's Fig. 1B, which calls the modes fixed: that holds for four weights only.
    """
    shared = weights[:2, :2] + weights[:2, :1:-1]
    opposed = weights[:2, :2] - weights[:2, :1:-1]
    same, other = zip(_block_eigenvalues(shared), _block_eigenvalues(opposed), strict=True)
    return jnp.stack([*same, *other])


def task_mixing(weights: Array) -> Array:
    """Return how far the modes are from being eigenvectors, in units of the weights.

    Zero if and only if the tasks are alike.

    Parameters
    ----------
    weights
        W of :func:`weight_matrix`, shape ``(4, 4)``.

    Returns
    -------
    Frobenius norm of W between different modes, shape ``()``.
    """
    between = MODE_VECTORS @ weights @ MODE_VECTORS.T
    return jnp.sqrt(jnp.sum(jnp.where(np.eye(4, dtype=bool), 0.0, between) ** 2))


def weights_of_eigenvalues(eigenvalues: Array) -> Array:
    """Return sW, vW, hW, dW that have given eigenvalues.

    Parameters
    ----------
    eigenvalues
        In the order of ``MODES``, shape ``(4,)``.

    Returns
    -------
    Weights, shape ``(4,)``.
    """
    signs = jnp.array([[1, 1, 1, 1], [1, 1, -1, -1], [1, -1, 1, -1], [1, -1, -1, 1]])
    return signs @ eigenvalues / 4


def task_inputs(protocol: Protocol) -> Array:
    """Return the input to every unit in both tasks.

    Returns
    -------
    I, shape ``(NUM_STEPS + 1, 4, 2)``: time, unit, task.
    """
    times = _times()
    is_pro = np.array([1, 0, 0, 1])
    is_left = np.array([1, 1, 0, 0])
    # One trial of each task; the rule goes to the units of that task.
    ruled = np.stack([is_pro, 1 - is_pro], -1)

    def during(period: np.ndarray | Array, target: np.ndarray) -> Array:
        # A column for each task, or one for both.
        columns = target if target.ndim == 2 else np.stack([target, target], -1)
        return jnp.asarray(period, float)[:, None, None] * columns[None]

    everyone, always = np.ones(4), np.ones_like(times)
    lit = (times > DECISION) & (times < protocol.light_end)
    return (
        protocol.constant * during(always, everyone)
        + protocol.pro_bias * during(always, is_pro)
        + protocol.rule * during(times < DECISION, ruled)
        + protocol.choice * during(times > DECISION, everyone)
        + protocol.light * during(lit, is_left)
    )


def simulate(
    rng_key: Array,
    weights: Array,
    num_trials: int,
    protocol: Protocol = SUCCESSOR,
    inactivation: Inactivation = Inactivation(),  # noqa: B008 - immutable
    published_start: bool = False,
) -> Array:
    r"""Return the activities at the end of Pro and Anti trials.

    Euler's method with the published step, whose noise has no :math:`\sqrt{dt}`. A Pro and an Anti
    trial of the same number share their noise: drawing it is most of the cost, and nothing that
    is asked of one task depends on the other's.

    Parameters
    ----------
    rng_key
        Key of the noise.
    weights
        W, shape ``(4, 4)``.
    num_trials
        Number of trials of each task.
    protocol
        Inputs and noise.
    inactivation
        When and how much all units are silenced.
    published_start
        Whether to start as published, where the inverse of the nonlinearity has a wrong sign:
        :math:`u_0 = \beta\,\mathrm{artanh}(2 v_0 - 1) - \theta`.

    Returns
    -------
    v, shape ``(4, 2, num_trials)``: unit, task, trial.

    References
    ----------
    The draft's section 3.3, after Duan et al.; eLife 10:e56265, methods.
    """
    times = _times()
    silenced = (times >= inactivation.start) & (times <= inactivation.end)
    gains = 1 - inactivation.strength * jnp.asarray(silenced, float)
    inputs = task_inputs(protocol)[..., None]
    keys = jax.random.split(rng_key, NUM_STEPS + 1)
    shape = (len(UNITS), 1, num_trials)

    def activity(u: Array, gain: Array) -> Array:
        return gain * (0.5 * jnp.tanh((u - THRESHOLD) / SLOPE) + 0.5)

    def step(carry: tuple[Array, Array], now: tuple[Array, Array, Array]) -> tuple:
        u, v = carry
        key, drive, gain = now
        # Four sums of four terms: XLA fuses them, a batched 4 x 4 product it would not.
        recurrent = sum(weights[:, unit, None, None] * v[unit][None] for unit in range(len(UNITS)))
        noise = protocol.noise * jax.random.normal(key, shape)
        u = u + TIME_STEP / TAU * (-u + recurrent + drive + noise)
        return (u, activity(u, gain)), None

    v = START + protocol.start_noise * jax.random.normal(keys[0], shape)
    offset = -THRESHOLD if published_start else THRESHOLD
    u = SLOPE * jnp.arctanh(2 * v - 1) + offset
    u, v = (jnp.broadcast_to(x, (len(UNITS), len(TASKS), num_trials)) for x in (u, gains[0] * v))
    (_, v), _ = jax.lax.scan(step, (u, v), (keys[1:], inputs[1:], gains[1:]))
    return v


def responses(v: Array) -> Responses:
    r"""Return the statistics of the responses.

    .. math:: \mathrm{accuracy} = \frac1N \sum_n
              \mathrm{sigmoid}(100 (v_{\mathrm{correct}} - v_{\mathrm{wrong}}))

    The expectation of each is the same for every number of trials from two on; their noise is not.

    Parameters
    ----------
    v
        Activities at the end, shape ``(4, 2, num_trials)``: unit, task, trial.

    References
    ----------
    Accuracy: eLife 10:e56265; the others: the draft's code.
    """
    left, right = v[LP], v[RP]
    correct, wrong = (jnp.stack(pair) for pair in ((left[0], right[1]), (right[0], left[1])))
    wins = jax.nn.sigmoid(SHARPNESS * (correct - wrong))
    return Responses(
        *_unbiased_moments(wins),
        *_unbiased_moments(correct),
        indecision=(correct * (1 - correct)).mean(-1),
        contrast=((correct - wrong) ** 2).mean(-1),
    )


def _unbiased_moments(trials: Array) -> tuple[Array, Array, Array]:
    """Return the mean over trials, an estimate of its expectation's square, and the variance."""
    mean, variance = trials.mean(-1), trials.var(-1, ddof=1)
    return mean, mean**2 - variance / trials.shape[-1], variance


def _times() -> np.ndarray:
    """Return the times of all points, in s, without the rounding that would move the decision."""
    return np.round(TIME_STEP * np.arange(NUM_STEPS + 1), 6)


def _block_eigenvalues(block: Array) -> tuple[Array, Array]:
    """Return the eigenvalue of the mode of equal signs and that of opposite ones."""
    (a, b), (c, d) = block
    discriminant = (a - d) ** 2 / 4 + b * c
    positive = discriminant > 0
    root = jnp.where(positive, jnp.sqrt(jnp.where(positive, discriminant, 1.0)), 0.0)
    root = jnp.where(b + c < 0, -root, root)
    return (a + d) / 2 + root, (a + d) / 2 - root
