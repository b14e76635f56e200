"""Figures of a fit, from its InferenceData alone.

Every function takes axes to draw into and returns the axes. Labels are the names and coordinates of
the data, with the unit of variables that have the attribute ``units``.
"""

from numpyro_dsn.plots.behavior import plot_behavior, plot_traces
from numpyro_dsn.plots.comparison import plot_densities, plot_forest
from numpyro_dsn.plots.directions import plot_eigenvectors
from numpyro_dsn.plots.engines import plot_compare
from numpyro_dsn.plots.matrix import plot_matrix
from numpyro_dsn.plots.optimization import plot_optimization, plot_violations
from numpyro_dsn.plots.pair import plot_pair

__all__ = [
    "plot_behavior",
    "plot_compare",
    "plot_densities",
    "plot_eigenvectors",
    "plot_forest",
    "plot_matrix",
    "plot_optimization",
    "plot_pair",
    "plot_traces",
    "plot_violations",
]
