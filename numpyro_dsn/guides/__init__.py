"""Flow guides: ``AutoContinuous`` subclasses with an exact density in both directions."""

from numpyro_dsn.guides.coupling import AutoCoupling
from numpyro_dsn.guides.density import constrain, log_prob, unconstrain, unconstrained_posterior
from numpyro_dsn.guides.flow import AutoFlow
from numpyro_dsn.guides.neural_spline import AutoNeuralSpline
from numpyro_dsn.guides.real_nvp import AutoRealNVP

__all__ = [
    "AutoCoupling",
    "AutoFlow",
    "AutoNeuralSpline",
    "AutoRealNVP",
    "constrain",
    "log_prob",
    "unconstrain",
    "unconstrained_posterior",
]
