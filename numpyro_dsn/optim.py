"""Which optimizer takes the steps."""

from typing import Any

from numpyro.optim import Adam, _NumPyroOptim, optax_to_numpyro

from numpyro_dsn.multipliers import DualNewton, PenaltyMethod
from numpyro_dsn.soap import SOAP


def as_numpyro_optim(optim: Any, method: PenaltyMethod | DualNewton) -> _NumPyroOptim:
    """Return an optimizer as one of NumPyro's, and the method's own if there is none.

    Parameters
    ----------
    optim
        An optimizer of NumPyro or optax, or ``None``.
    method
        The method whose default is meant.

    Raises
    ------
    TypeError
        If it is neither.
    """
    if optim is None and isinstance(method, DualNewton):
        return SOAP(5e-3)
    if optim is None:
        return Adam(1e-3)
    if isinstance(optim, _NumPyroOptim):
        return optim
    if isinstance(optim, type) or not (hasattr(optim, "init") and hasattr(optim, "update")):
        raise TypeError(
            f"`optim` must be a NumPyro or optax optimizer, but is {optim!r}; use for instance "
            "`numpyro.optim.Adam(1e-3)`."
        )
    return optax_to_numpyro(optim)
