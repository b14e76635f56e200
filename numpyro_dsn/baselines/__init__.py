"""The engines that the field trusts, on the same model and behavior, with the same output.

Each takes a fit, or ``problem(model, behavior)``, and returns ArviZ data with the variables,
dimensions and coordinates of ``DSNResult.to_inference_data``.
"""

from numpyro_dsn.baselines._nuts import nuts
from numpyro_dsn.baselines._problem import Problem, problem
from numpyro_dsn.baselines._rejection import rejection
from numpyro_dsn.baselines._smc import smc
from numpyro_dsn.baselines._smc_abc import smc_abc
from numpyro_dsn.baselines.draws import from_draws

__all__ = [
    "Problem",
    "from_draws",
    "nuts",
    "problem",
    "rejection",
    "smc",
    "smc_abc",
]
