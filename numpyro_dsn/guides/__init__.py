"""Flow guides: ``AutoContinuous`` subclasses with an exact density in both directions."""

from numpyro_dsn.guides.cube import CubeFlow
from numpyro_dsn.guides.density import log_prob
from numpyro_dsn.guides.neural_spline import AutoNeuralSpline
from numpyro_dsn.guides.real_nvp import AutoRealNVP

__all__ = ["AutoNeuralSpline", "AutoRealNVP", "CubeFlow", "log_prob"]
