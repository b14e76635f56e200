"""How programs are compiled: most run so few times that compilation takes longer than they do."""

from collections.abc import Callable
from functools import cache, partial, wraps
from typing import Any, TypeVar, cast

import jax

F = TypeVar("F", bound=Callable[..., Any])


def lean_jit(function: F, optimization_level: int, **settings: Any) -> F:
    """Return ``jax.jit`` of a function that XLA compiles for a CPU with less optimization.

    An XLA that does not know the options, or compiles for an accelerator, does so by default.

    Parameters
    ----------
    function
        The function.
    optimization_level
        From 0 to 3, XLA's default.
    settings
        Arguments of ``jax.jit``.

    Returns
    -------
    The function; its ``jitted()`` is what ``jax.jit`` returns.
    """

    @cache
    def compiled() -> Callable:
        return jax.jit(function, compiler_options=_options(optimization_level), **settings)

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return compiled()(*args, **kwargs)

    call.jitted = compiled  # type: ignore[attr-defined]
    return cast(F, call)


quick_jit = partial(lean_jit, optimization_level=0)
"""For programs of a fit that run once an epoch or less, and for which compiling takes longer."""

flow_jit = partial(lean_jit, optimization_level=1)
"""For a flow and its gradient, which run often: no slower than by default, but sooner compiled."""


@cache
def _options(optimization_level: int) -> dict[str, bool | int]:
    if jax.default_backend() != "cpu":
        return {}
    options = {
        "xla_backend_optimization_level": optimization_level,
        "xla_cpu_use_fusion_emitters": False,
    }
    try:
        jax.jit(lambda: 0, compiler_options=options).lower().compile()
    except jax.errors.JaxRuntimeError:
        return {}
    return options
