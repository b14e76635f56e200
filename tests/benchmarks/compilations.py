"""Count what XLA compiles, by the name of the function."""

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import jax

EVENT = "/jax/core/compile/backend_compile_duration"


@contextmanager
def compilations() -> Iterator[Counter]:
    """Yield a counter of the programs that are compiled inside, by name: ``jit(train)``."""
    counter: Counter = Counter()

    def listen(event: str, duration: float, **details: str) -> None:
        if event == EVENT:
            counter[str(details.get("fun_name", "?"))] += 1

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield counter
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def of_training(counter: Counter) -> Counter:
    """Return the programs that train, or hold it all in one: those with such a name."""
    return Counter({n: k for n, k in counter.items() if re.search(r"train|epoch|fit", n)})
