"""Degenerate solution networks: which parameters of a circuit produce a behavior."""

from numpyro_dsn import baselines, sensitivity
from numpyro_dsn.certificate import Certificate
from numpyro_dsn.comparison import Comparison, compare
from numpyro_dsn.dsn import DSN, DSNState
from numpyro_dsn.primitives import behavior, simulator
from numpyro_dsn.program.exponential_family import exponential_family
from numpyro_dsn.result import DSNResult
from numpyro_dsn.solver import SOAP, DualNewton, MaxEntropyELBO, PenaltyMethod
from numpyro_dsn.status import DSNWarning, Status
from numpyro_dsn.version import __version__

__all__ = [
    "Certificate",
    "Comparison",
    "DSN",
    "DSNResult",
    "DSNState",
    "DSNWarning",
    "DualNewton",
    "MaxEntropyELBO",
    "PenaltyMethod",
    "SOAP",
    "Status",
    "__version__",
    "baselines",
    "behavior",
    "compare",
    "exponential_family",
    "sensitivity",
    "simulator",
]
