"""The neural spline guide."""

import jax.numpy as jnp
from jax import Array

from numpyro_dsn.guides.coupling import AutoCoupling
from numpyro_dsn.guides.transforms import Couplings, MonotoneSpline


class SplineCouplings(Couplings):
    r"""Bend some coordinates by splines whose shapes are functions of the others.

    .. math:: y_b = S(x_b; \theta(x_a)) + t(x_a), \qquad y_a = x_a

    The network's outputs are heights, slopes and shift of each spline.

    References
    ----------
    Durkan, Bekasov, Murray and Papamakarios, *Neural Spline Flows*, section 3.
    """

    @staticmethod
    def num_outputs(num_transformed: int, num_bins: int) -> int:
        """Return the width of a network's last layer: heights, slopes and a shift of each."""
        return num_transformed * (2 * num_bins + 2)

    @staticmethod
    def move(output: Array, x: Array) -> tuple[Array, Array]:
        """Return what becomes of the coordinates that move, and log |det dy/dx|."""
        spline, shift = _spline_and_shift(output, x.shape[-1])
        y, log_det = spline.call_with_intermediates(x)
        return y + shift, log_det

    @staticmethod
    def move_back(output: Array, y: Array) -> tuple[Array, Array]:
        """Return the inverse of :meth:`move`, and log |det dy/dx|."""
        spline, shift = _spline_and_shift(output, y.shape[-1])
        return spline.invert(y - shift)


class AutoNeuralSpline(AutoCoupling):
    """Neural spline flow: rational-quadratic couplings, then a spline on each coordinate.

    Parameters are those of :class:`AutoCoupling`.

    References
    ----------
    Durkan, Bekasov, Murray and Papamakarios, *Neural Spline Flows*, arXiv:1906.04032.
    """

    couplings = SplineCouplings


def _spline_and_shift(output: Array, num_transformed: int) -> tuple[MonotoneSpline, Array]:
    output = output.reshape((*output.shape[:-1], num_transformed, -1))
    num_bins = (output.shape[-1] - 2) // 2
    heights, slopes, shift = jnp.split(output, [num_bins, 2 * num_bins + 1], axis=-1)
    return MonotoneSpline(heights, slopes), shift[..., 0]
