"""What a fit is of: a program, a flow, and the arguments of the model."""

from typing import Any, NamedTuple

from numpyro_dsn.program import Program
from numpyro_dsn.solver.problem import Problem


class Fit(NamedTuple):
    """What was fitted.

    program
        The model and the behavior.
    problem
        The flow and the circuit, as the method saw them.
    method
        The method.
    args, kwargs
        Arguments of the model.
    """

    program: Program
    problem: Problem
    method: Any
    args: tuple
    kwargs: dict

    @property
    def flow(self) -> Any:
        """The flow: ``sample``, ``log_prob``, ``draw`` and ``from_normal`` of its parameters."""
        return self.problem.flow
