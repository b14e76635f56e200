"""The degenerate solution network: a flow fitted to a behavior, epoch by epoch."""

import os
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpyro.infer.autoguide import AutoContinuous
from tqdm.auto import trange

from numpyro_dsn.build import build_problem
from numpyro_dsn.certificate import infeasible, progress_text
from numpyro_dsn.fit import Fit
from numpyro_dsn.inference_data import load_arrays
from numpyro_dsn.program import Behavior, Model, read
from numpyro_dsn.result import DSNResult
from numpyro_dsn.solver import DualNewton, PenaltyMethod
from numpyro_dsn.solver.history import History, empty_epoch, extend_history, start_history
from numpyro_dsn.solver.optim import as_numpyro_optim
from numpyro_dsn.solver.state import held_fit, same
from numpyro_dsn.status import Status, warn

MAX_NONFINITE = 0.97
"""Fraction of draws that may fail; of fewer that run, too few are left to fit anything to."""


class DSNState(NamedTuple):
    """Everything needed to continue a run.

    chains
        State of every fit.
    history
        What was recorded so far.
    """

    chains: tuple[Any, ...]
    history: History


class DSN:
    r"""Learn which parameters of a circuit produce a behavior, and are otherwise random.

    .. math:: q^* = \arg\max_q\; -KL(q \,\|\, p)
              \quad \text{s.t.} \quad E_{z \sim q}\, E_{x \sim p(x|z)} [T(x)] = \mu

    Parameters
    ----------
    model
        A NumPyro model: priors of the circuit's parameters and a simulator. Noise of the
        simulator comes from ``numpyro.prng_key()`` or from sites marked with ``simulator()``.
    behavior
        A callable of ``{site: value}`` that makes ``behavior`` statements, or a dict
        ``{site: constraint}``; ``None`` if the model itself states its behavior.
    guide
        A continuous AutoGuide. By default the flow of
        :class:`~numpyro_dsn.guides.AutoNeuralSpline`; under ``PenaltyMethod``, and for many
        latents of a circuit with gradients, that of :class:`~numpyro_dsn.guides.AutoRealNVP`.
    optim
        A NumPyro or optax optimizer; by default the method's own.
    method
        ``DualNewton()``, or ``PenaltyMethod()`` as published.
    num_particles
        Number of draws in a step; by default the method's own. The penalty method simulates each
        once, and so does ``DualNewton`` where it follows gradients, of more than 8 latents.
    num_steps
        Number of optimizer steps in an epoch; ``DualNewton`` may take fewer.
    num_chains
        Number of independent fits, one after the other.

    Raises
    ------
    ValueError
        If a count is not positive, or the number of draws is too small for an unbiased penalty.

    References
    ----------
    Bittner et al. (2021), *eLife* 10:e56265, eq. 1 and methods.
    """

    def __init__(
        self,
        model: Model,
        behavior: Behavior | None = None,
        guide: AutoContinuous | None = None,
        optim: Any = None,
        method: PenaltyMethod | DualNewton = DualNewton(),  # noqa: B008 - immutable
        *,
        num_particles: int | None = None,
        num_steps: int = 1000,
        num_chains: int = 1,
    ) -> None:
        if num_particles is None:
            num_particles = method.default_num_particles
        for name, value, least in (
            ("num_particles", num_particles, 2),
            ("num_steps", num_steps, 1),
            ("num_chains", num_chains, 1),
        ):
            if value < least:
                raise ValueError(f"`{name}` must be at least {least}, but is {value}.")
        self.model = model
        self.behavior = behavior
        self.guide = guide
        self.optim = None if optim is None else as_numpyro_optim(optim)
        self.method = method
        self.num_particles = num_particles
        self.num_steps = num_steps
        self.num_chains = num_chains
        self._arguments: tuple[tuple, dict] | None = None

    def init(self, rng_key: Array, *args: Any, **kwargs: Any) -> DSNState:
        """Read the model, set up the flow and measure the start.

        Parameters
        ----------
        rng_key
            Key of the whole run.
        args, kwargs
            Arguments of the model.

        Returns
        -------
        The state before the first epoch.

        Raises
        ------
        ValueError
            If the model or the behavior cannot be meant; the message names the site.
        """
        self._set_up(args, kwargs)
        began, problem = time.perf_counter(), self._fit.problem
        keys = jax.random.split(rng_key, self.num_chains)
        chains, start = zip(*(self.method.init(problem, key) for key in keys), strict=True)
        start = jax.device_get(start)
        return DSNState(chains, start_history(start, time.perf_counter() - began))

    def update(self, state: DSNState) -> DSNState:
        """Run one epoch of every fit; :meth:`init` or :meth:`run` must have set up the model."""
        began, problem = time.perf_counter(), self._fit.problem
        steps = (self.method.step(problem, chain) for chain in state.chains)
        chains, epochs, records = zip(*steps, strict=True)
        epochs, records = jax.device_get((epochs, records))
        seconds = time.perf_counter() - began
        return DSNState(chains, extend_history(state.history, epochs, records, seconds))

    def run(
        self,
        rng_key: Array,
        *args: Any,
        num_epochs: int = 50,
        init_state: DSNState | None = None,
        progress_bar: bool = True,
        **kwargs: Any,
    ) -> DSNResult:
        """Fit the flow.

        Parameters
        ----------
        rng_key
            Key of the whole run; not used with ``init_state``, which holds its own.
        args, kwargs
            Arguments of the model.
        num_epochs
            Largest number of epochs. The dual Newton method stops when every fit has converged,
            or has shrunk its steps so far that it moves no more.
        init_state
            State to continue from, ``result.state``.
        progress_bar
            Whether to show entropy and largest violation while running.

        Returns
        -------
        The fit. After Ctrl-C, or if a simulation raises an error, it holds the last finished epoch
        and its status says so.
        """
        self._set_up(args, kwargs)
        status = None
        disable = not progress_bar or "CI" in os.environ
        with trange(num_epochs, desc="DSN", unit="epoch", disable=disable) as bar:
            bar.set_postfix_str("compiling, simulating the first circuits")
            state = self.init(rng_key, *args, **kwargs) if init_state is None else init_state
            bar.reset()
            try:
                for _ in bar:
                    bar.set_postfix_str(progress_text(state.history))
                    status = _failure(state.history)
                    if status is not None:
                        break
                    state = self.update(state)
                    bar.set_postfix_str(progress_text(state.history))
                    if all(map(self.method.is_done, state.chains)):
                        break
            except KeyboardInterrupt:
                status = Status.INTERRUPTED
            except (jax.errors.JaxRuntimeError, ValueError) as error:
                # JAX says so of errors that a callback raised; others are mistakes of ours.
                if not str(error).startswith("INTERNAL"):
                    raise
                status = Status.FAILED
                warn(f"{status.value} It was: {_cause(error)}")
        return self._result(state, status or _failure(state.history))

    def get_params(self, state: DSNState) -> dict[str, Array]:
        """Return the guide's current parameters; arrays have a leading axis ``num_chains``."""
        return self._stacked([chain.params for chain in state.chains])

    def load(self, path: str | Path, *args: Any, **kwargs: Any) -> DSNResult:
        """Load a result saved by a DSN of the same model, behavior, guide and settings.

        Parameters
        ----------
        path
            File written by :meth:`DSNResult.save`.
        args, kwargs
            Arguments of the model.

        Returns
        -------
        The saved result; ``run(..., init_state=result.state)`` continues it.

        Raises
        ------
        ValueError
            If the file was saved from another model, behavior, guide or optimizer.
        """
        self._set_up(args, kwargs)
        state, code = load_arrays(path, (self._template(), np.zeros((), int)), self._fingerprint())
        return self._result(state, list(Status)[int(code)])

    def _template(self) -> DSNState:
        """Return a state whose leaves have the shapes and types of those that are saved."""

        def zeros(leaf: Any) -> Any:
            if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                return jax.random.key(0)
            return np.zeros(leaf.shape, leaf.dtype)

        chain = jax.tree.map(zeros, self.method.template(self._fit.problem))
        epochs = [empty_epoch(len(self._fit.program.labels))] * self.num_chains
        return DSNState((chain,) * self.num_chains, start_history(epochs, 0.0))

    def _set_up(self, args: tuple, kwargs: dict) -> None:
        """Read the model and build the compiled functions, once for the same arguments."""
        if self._arguments is not None and same(self._arguments, (args, kwargs)):
            return
        program = read(jax.random.key(0), self.model, self.behavior, args, kwargs)
        sizes, arguments = (self.num_particles, self.num_steps), (args, kwargs)
        problem = build_problem(program, self.guide, self.method, sizes, self.optim, arguments)
        self._fit = Fit(program, problem, self.method, args, kwargs)
        self._arguments = arguments

    def _stacked(self, params: list[dict[str, Array]]) -> dict[str, Array]:
        constrained = [self._fit.flow.constrain(one) for one in params]
        return jax.tree.map(lambda *leaves: np.stack(leaves), *constrained)

    def _result(self, state: DSNState, failure: Status | None) -> DSNResult:
        chains, last = state.chains, jax.tree.map(lambda leaf: leaf[-1], state.history.epochs)
        best = np.array([int(chain.best.epoch) for chain in chains])
        converged = best >= 0
        # Converged fits first, by entropy; then those that are closest to what was asked.
        worst = np.nan_to_num(np.abs(last.violation).max(-1), nan=np.inf)
        scores = np.array([float(chain.best.score) for chain in chains])
        chain = int(np.lexsort((-np.where(converged, scores, -worst), ~converged))[0])
        status = failure or (Status.CONVERGED if converged.any() else Status.NOT_CONVERGED)
        # What cannot be met drives a fit ever further, in the end perhaps to NaN.
        aimless = status in (Status.NOT_CONVERGED, Status.DIVERGED)
        unmet = self._unmet(chains[chain]) if aimless else None
        status = Status.INFEASIBLE if unmet is not None else status
        if status not in (Status.CONVERGED, Status.FAILED):
            details = unmet if unmet is not None else self._details(status, last)
            warn(status.value if details is None else f"{status.value} Here {details}.")
        return DSNResult(
            fit=self._fit,
            params=self._stacked([held_fit(chain).params for chain in chains]),
            state=state,
            status=status,
            epochs=np.where(converged, best, [int(chain.epoch) for chain in chains]),
            chain=chain,
            fingerprint=self._fingerprint(),
        )

    def _unmet(self, chain: Any) -> str | None:
        """Return what the circuits that a fit simulated cannot meet, if it kept them."""
        if chain.pool is None:
            return None
        return infeasible(chain.pool, chain.targets, self._fit.program.labels, int(chain.last))

    def _details(self, status: Status, last: Any) -> str | None:
        """Return which statistics fail most."""
        if status is not Status.NONFINITE:
            return None
        failed, labels = last.failed.max(0), self._fit.program.labels
        worst = [f"{labels[i]} in {failed[i]:.0%}" for i in np.flatnonzero(failed > 0.5)]
        return f"not finite: {', '.join(worst)}" if worst else None

    def _fingerprint(self) -> dict[str, Any]:
        program = self._fit.program
        return {
            "guide": "default" if self.guide is None else type(self.guide).__name__,
            "latents": {name: list(np.shape(s["value"])) for name, s in program.latents.items()},
            "statistics": program.labels,
            "bounds": np.stack([program.lower, program.upper]).astype(float).tolist(),
            "num_chains": self.num_chains,
        }


def _failure(history: History) -> Status | None:
    last = jax.tree.map(lambda leaf: leaf[-1], history.epochs)
    if np.all(last.nonfinite > MAX_NONFINITE):
        return Status.NONFINITE
    if np.all(last.skipped > 0.5) or not np.any(np.isfinite(last.entropy)):
        return Status.DIVERGED
    return None


def _cause(error: Exception) -> str:
    """Return the last line of an error that a simulation raised, which says what went wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    named = [line for line in lines if "Error:" in line and not line.startswith("INTERNAL")]
    return (named or lines or [type(error).__name__])[-1]
