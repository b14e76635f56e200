"""How programs are compiled: most run so few times that compilation takes longer."""

from collections.abc import Callable
from functools import cache, partial, wraps
from typing import Any, TypeVar, cast

import jax

F = TypeVar("F", bound=Callable[..., Any])

quick_jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
"""``jax.jit`` without XLA's optimizations, for programs of a fit that run once an epoch or less:
compilation takes a fifth of the time, a run perhaps three times as long."""


def plain_jit(function: F, **settings: Any) -> F:
    """Return ``jax.jit`` of a function with XLA's older emitters of fused loops on a CPU.

    For a flow and its gradient they compile in half of the time to code that is as fast. An XLA
    that does not know the option compiles as it does by default.

    Parameters
    ----------
    function
        The function.
    settings
        Arguments of ``jax.jit``.

    Returns
    -------
    The function; its ``jitted()`` is what ``jax.jit`` returns.
    """

    @cache
    def compiled() -> Callable:
        return jax.jit(function, compiler_options=_plain_options(), **settings)

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return compiled()(*args, **kwargs)

    call.jitted = compiled  # type: ignore[attr-defined]
    return cast(F, call)


@cache
def _plain_options() -> dict[str, bool]:
    options = {"xla_cpu_use_fusion_emitters": False}
    try:
        jax.jit(lambda: 0, compiler_options=options).lower().compile()
    except jax.errors.JaxRuntimeError:
        return {}
    return options
