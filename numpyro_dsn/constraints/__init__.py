"""What can be asked of a statistic of the activity.

These constrain *behavior*; ``numpyro.distributions.constraints`` describe the supports of
distributions. Each is a pytree: targets are leaves, so they may be arrays or tracers.
"""

from numpyro_dsn.constraints.constraint import Constraint
from numpyro_dsn.constraints.covariance import Covariance
from numpyro_dsn.constraints.inequalities import AtLeast, AtMost, Between
from numpyro_dsn.constraints.moments import Moments

__all__ = ["AtLeast", "AtMost", "Between", "Constraint", "Covariance", "Moments"]
