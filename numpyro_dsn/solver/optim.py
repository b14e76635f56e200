"""Which optimizer takes the steps."""

from functools import cache
from typing import Any

from numpyro.optim import Adam, _NumPyroOptim, optax_to_numpyro

from numpyro_dsn.solver.soap import SOAP


@cache
def adam(step_size: float, square_decay: float = 0.999) -> Adam:
    """Return the same Adam for the same settings: compiled programs know it by identity."""
    return Adam(step_size, b2=square_decay)


@cache
def soap(step_size: float) -> SOAP:
    """Return the same SOAP for the same settings."""
    return SOAP(step_size)


def as_numpyro_optim(optim: Any) -> _NumPyroOptim:
    """Return an optimizer of NumPyro or optax as one of NumPyro's.

    Raises
    ------
    TypeError
        If it is neither.
    """
    if isinstance(optim, _NumPyroOptim):
        return optim
    if isinstance(optim, type) or not (hasattr(optim, "init") and hasattr(optim, "update")):
        raise TypeError(
            f"`optim` must be a NumPyro or optax optimizer, but is {optim!r}; use for instance "
            "`numpyro.optim.Adam(1e-3)`."
        )
    return optax_to_numpyro(optim)
