"""The tail of a fit's importance weights."""

import warnings

import numpy as np
from numpyro.infer.importance import _psis_khat


def pareto_k(log_weights: np.ndarray) -> float:
    r"""Return the shape of the tail of the weights that make a fit maximum entropy.

    .. math:: w(z) = \frac{p(z)}{q(z)} \exp(\eta^\top \bar T(z))

    Parameters
    ----------
    log_weights
        log w at draws of the fit, shape ``(num_draws,)``; minus infinity where the circuit failed.

    References
    ----------
    Vehtari, Simpson, Gelman, Yao and Gabry (2024), *Pareto smoothed importance sampling*.
    """
    # NumPyro's own diagnostic runs a model and a guide operation by operation.
    with warnings.catch_warnings():
        # Too few weights in the tail: the shape is then infinite, which says it.
        warnings.filterwarnings("ignore", "Not enough tail samples", UserWarning)
        return float(_psis_khat(np.asarray(log_weights, float)))
