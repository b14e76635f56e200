"""Gradient and Hessian of the log density, and the directions that they tell apart."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpyro.infer.util import log_density

from numpyro_dsn.program.exponential_family import exponential_family
from numpyro_dsn.sensitivity.coordinates import (
    Sites,
    element_labels,
    require_inside,
    unflatten,
)
from numpyro_dsn.sensitivity.density import log_prob

if TYPE_CHECKING:
    from numpyro_dsn.result import DSNResult

NUM_REPLICATES = 16
"""Fixed keys over which the statistics of a stochastic circuit are averaged."""

BATCH_SIZE = 100


class Curvature(NamedTuple):
    r"""Second-order expansion of a log density, on the constrained space.

    .. math:: \log q(z + \delta) \approx \log q(z) + g^\top \delta + \tfrac12 \delta^\top H \delta,
              \qquad H = \sum_k \lambda_k v_k v_k^\top

    Units are nats per unit of the parameters, so that eigenvectors depend on these units: compare
    parameters of one unit, or rescale them in the model. Leading axes are those of the points.

    labels
        One label for each of the D parameters.
    gradient
        g, shape ``(..., D)``.
    hessian
        H, shape ``(..., D, D)``.
    eigenvalues
        Ordered by magnitude, the largest first, shape ``(..., D)``.
    eigenvectors
        Row k belongs to eigenvalue k; its largest component is positive, shape ``(..., D, D)``.
    """

    labels: list[str]
    gradient: np.ndarray
    hessian: np.ndarray
    eigenvalues: np.ndarray
    eigenvectors: np.ndarray

    @property
    def sensitive(self) -> np.ndarray:
        """The direction of the largest curvature, in which behavior changes most."""
        return self.eigenvectors[..., 0, :]

    @property
    def degenerate(self) -> np.ndarray:
        """The direction of the smallest curvature, in which behavior changes least."""
        return self.eigenvectors[..., -1, :]


def curvature(result: "DSNResult", values: Sites) -> Curvature:
    """Return gradient and Hessian of the log density of the fit.

    Both are exact derivatives of the flow, and a flow is less accurate in its second derivatives
    than in its density; :func:`tilted_curvature` is an independent check. Flows
    with ReLU units have kinks, whose curvature no second derivative at a point contains.

    Parameters
    ----------
    result
        The fit.
    values
        Value of every latent site, with any leading axes; other sites are ignored.

    Raises
    ------
    ValueError
        If a latent site is missing, a value is not inside its support, or the elements of a site
        depend on each other.
    NotImplementedError
        If the guide's flow has no inverse.

    References
    ----------
    The draft's Figs. 1D and S1.
    """
    return _curvature(result, values, lambda z: log_prob(result, z))


def tilted_curvature(
    result: "DSNResult",
    values: Sites,
    natural_parameters: Mapping[str, float] | None = None,
    num_replicates: int = NUM_REPLICATES,
) -> Curvature:
    r"""Return gradient and Hessian of the exponential family that solves the problem.

    .. math:: \log q^*(z) = \log p(z) + \eta^\top \bar T(z) + \text{const}

    They come from derivatives of the simulator and need no flow. A simulator whose gradient is
    zero or does not exist has no curvature here.

    Parameters
    ----------
    result
        The fit.
    values
        Value of every latent site, with any leading axes; other sites are ignored.
    natural_parameters
        eta by label, in nats per unit of T; those of the certificate by default.
    num_replicates
        Number of fixed keys over which T is averaged if the simulator is stochastic.

    Raises
    ------
    ValueError
        If a latent site is missing, a value is not inside its support, the elements of a site
        depend on each other, or labels are not those of the statistics.
    """
    fit, program = result.fit, result.fit.program
    require_inside(program, values)  # before the certificate, which may simulate
    if natural_parameters is None:
        natural_parameters = result.certificate.natural_parameters
    if set(natural_parameters) != set(program.labels):
        raise ValueError(
            f"`natural_parameters` has the labels {sorted(natural_parameters)}; give one number "
            f"for each statistic, {program.labels}."
        )
    eta = jnp.array([natural_parameters[label] for label in program.labels])
    replicates = num_replicates if program.is_stochastic else 1
    tilted = exponential_family(program.model, program.constraints, eta, replicates)

    def log_tilted(z: Array) -> Array:
        return log_density(tilted, fit.args, fit.kwargs, unflatten(program, z))[0]

    return _curvature(result, values, log_tilted)


def _curvature(
    result: "DSNResult", values: Sites, log_prob_at: Callable[[Array], Array]
) -> Curvature:
    flat, shape = require_inside(result.fit.program, values)

    def derivatives(z: Array) -> tuple[Array, Array]:
        return jax.grad(log_prob_at)(z), jax.hessian(log_prob_at)(z)

    at_all = jax.jit(lambda z: jax.lax.map(derivatives, z, batch_size=BATCH_SIZE))
    gradient, hessian = map(np.asarray, at_all(flat))
    eigenvalues, eigenvectors = _eigen(hessian)
    return Curvature(
        element_labels(result.fit.program),
        *(
            leaf.reshape(shape + leaf.shape[1:])
            for leaf in (gradient, hessian, eigenvalues, eigenvectors)
        ),
    )


def _eigen(hessian: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return eigenvalues by magnitude, and eigenvectors as rows with a positive main component."""
    values, vectors = np.linalg.eigh((hessian + np.swapaxes(hessian, -1, -2)) / 2)
    order = np.argsort(-np.abs(values), axis=-1)
    rows = np.take_along_axis(np.swapaxes(vectors, -1, -2), order[..., None], axis=-2)
    main = np.take_along_axis(rows, np.abs(rows).argmax(-1)[..., None], axis=-1)
    return np.take_along_axis(values, order, axis=-1), rows * np.sign(main)
