"""Reading a fit: which directions behavior is sensitive to, which are degenerate, and its modes.

Functions of a :class:`~numpyro_dsn.DSNResult` or of draws; they change nothing.
"""

from numpyro_dsn.sensitivity._curvature import Curvature, curvature, tilted_curvature
from numpyro_dsn.sensitivity.draws import Correlations, correlations, nearest
from numpyro_dsn.sensitivity.group import add_modes
from numpyro_dsn.sensitivity.modes import Modes, find_modes
from numpyro_dsn.sensitivity.perturbation import Perturbation, Regression, perturbation_test
from numpyro_dsn.sensitivity.ridge import Ridge, conditional_modes

__all__ = [
    "Correlations",
    "Curvature",
    "Modes",
    "Perturbation",
    "Regression",
    "Ridge",
    "add_modes",
    "conditional_modes",
    "correlations",
    "curvature",
    "find_modes",
    "nearest",
    "perturbation_test",
    "tilted_curvature",
]
