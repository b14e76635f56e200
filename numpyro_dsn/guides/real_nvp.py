"""The real NVP guide."""

from numpyro_dsn.guides.coupling import AutoCoupling
from numpyro_dsn.guides.transforms import AffineCouplings


class AutoRealNVP(AutoCoupling):
    """Real NVP: affine couplings, then a monotone spline on each coordinate.

    Parameters are those of :class:`AutoCoupling`.

    References
    ----------
    Dinh, Sohl-Dickstein and Bengio, *Density estimation using Real NVP*, arXiv:1605.08803.
    """

    couplings = AffineCouplings
