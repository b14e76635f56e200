"""Several posteriors of one circuit in one table: what they achieve, cost, and how far they differ.

They are compared as ArviZ data, so that every engine is on one footing.
"""

from numpyro_dsn.comparison.comparison import Comparison, Modes, compare
from numpyro_dsn.comparison.distances import Distances
from numpyro_dsn.comparison.estimates import Estimate
from numpyro_dsn.comparison.rows import Row
from numpyro_dsn.comparison.wasserstein import Distance, sliced_wasserstein

__all__ = [
    "Comparison",
    "Distance",
    "Distances",
    "Estimate",
    "Modes",
    "Row",
    "compare",
    "sliced_wasserstein",
]
