"""The neural spline guide."""

import jax.numpy as jnp
from jax import Array

from numpyro_dsn.guides.coupling import AutoCoupling
from numpyro_dsn.guides.transforms import Coupling, MonotoneSpline


class SplineCoupling(Coupling):
    r"""Bend one half of a vector by splines whose shapes are functions of the other half.

    .. math:: y_b = S(x_b; \theta(x_a)) + t(x_a), \qquad y_a = x_a

    The network's outputs are heights, slopes and shift of each spline.

    References
    ----------
    Durkan, Bekasov, Murray and Papamakarios, *Neural Spline Flows*, section 3.
    """

    @staticmethod
    def num_outputs(num_transformed: int, num_bins: int) -> int:
        """Return the width of the network's last layer: heights, slopes and a shift of each."""
        return num_transformed * (2 * num_bins + 2)

    def _spline_and_shift(self, vector: Array) -> tuple[MonotoneSpline, Array]:
        output = self._network(vector[..., list(self.conditioner)])
        output = output.reshape((*output.shape[:-1], len(self.transformed), -1))
        num_bins = (output.shape[-1] - 2) // 2
        heights, slopes, shift = jnp.split(output, [num_bins, 2 * num_bins + 1], axis=-1)
        return MonotoneSpline(heights, slopes), shift[..., 0]

    def call_with_intermediates(self, x: Array) -> tuple[Array, Array]:
        """Return y and log |det dy/dx|, shapes ``(..., D)`` and ``(...)``."""
        spline, shift = self._spline_and_shift(x)
        moved, log_det = spline.call_with_intermediates(x[..., list(self.transformed)])
        return self._join(x[..., list(self.conditioner)], moved + shift), log_det

    def _inverse(self, y: Array) -> Array:
        spline, shift = self._spline_and_shift(y)
        moved = spline._inverse(y[..., list(self.transformed)] - shift)
        return self._join(y[..., list(self.conditioner)], moved)


class AutoNeuralSpline(AutoCoupling):
    """Neural spline flow: rational-quadratic couplings, then a spline on each coordinate.

    Parameters are those of :class:`AutoCoupling`.

    References
    ----------
    Durkan, Bekasov, Murray and Papamakarios, *Neural Spline Flows*, arXiv:1906.04032.
    """

    coupling = SplineCoupling
