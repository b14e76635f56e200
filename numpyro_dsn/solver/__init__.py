"""How a fit moves: the dual Newton method, and the published penalty method."""

from numpyro_dsn.solver.history import Epoch, History, StepRecords
from numpyro_dsn.solver.newton import DualNewton
from numpyro_dsn.solver.objective import MaxEntropyELBO
from numpyro_dsn.solver.penalty import PenaltyMethod
from numpyro_dsn.solver.soap import SOAP

__all__ = [
    "DualNewton",
    "Epoch",
    "History",
    "MaxEntropyELBO",
    "PenaltyMethod",
    "SOAP",
    "StepRecords",
]
