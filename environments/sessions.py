"""Containers ready for an episode, opened on demand or ahead of it.

Left out: what an episode is (`swe_env.py`), what is done to an image beforehand (`preparation.py`).
"""

import contextlib
import logging
import threading
from collections import defaultdict, deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from tenacity import (
    Retrying,
    before_sleep_log,
    retry_if_exception_type,
    retry_if_not_exception_type,
    stop_after_attempt,
)

from srl_swe.environments.container import Container
from srl_swe.environments.egress import Egress
from srl_swe.environments.engine import Engine
from srl_swe.environments.image_uses import using_images
from srl_swe.environments.images import ensure_image
from srl_swe.environments.limits import ROOT, ContainerLimits
from srl_swe.environments.preparation import PreparedImage, ensure_prepared, find_prepared, prepare
from srl_swe.environments.shell import DEFAULT_ENVIRONMENT, Shell
from srl_swe.environments.worktree import WorkTreeBase
from srl_swe.errors import ContainerError, EngineTimeoutError, EngineUnavailableError, ImageError
from srl_swe.types import InstanceEnvironment

LOGGER = logging.getLogger(__name__)


@dataclass(kw_only=True, slots=True)
class Session:
    """A container with a shell in its work tree, as an episode finds it."""

    environment: InstanceEnvironment
    container: Container
    shell: Shell
    base: WorkTreeBase
    egress: Egress | None = None

    def is_usable(self) -> bool:
        """Tell whether the container lives and the shell answers."""
        try:
            result = self.shell.run(":", timeout_s=10)
        except ContainerError:
            return False
        return result.exit_code == 0 and not result.shell_replaced

    def rewind(self) -> "Session | None":
        """Return a session on the same container as an episode finds it; None where that cannot be done quickly.

        Raises:
            ContainerError: the engine failed; the container is to be closed.
        """
        self.leave()
        return enter(self.container, self.environment, self.base) if self.container.rewind() else None

    def leave(self) -> None:
        """Close the streams into the container, which goes on; idempotent."""
        self.shell.close()
        if self.egress is not None:
            self.egress.close()

    def close(self) -> None:
        """End and remove the container; idempotent."""
        with contextlib.ExitStack() as stack:
            stack.callback(self.container.close)
            stack.callback(self.leave)


def open_session(
    engine: Engine,
    environment: InstanceEnvironment,
    *,
    limits: ContainerLimits,
    keep_prepared: bool,
    name_hint: str = "",
) -> Session:
    """Start a container of the environment and open a shell in it; tried once more where a container fails.

    `keep_prepared` makes a prepared image where there is none, so that the next session of the environment opens
    as quickly as a container starts.

    Raises:
        ContainerError: the image or the container could not be made ready.
    """
    retrying = Retrying(
        stop=stop_after_attempt(2),
        retry=retry_if_exception_type(ContainerError)
        & retry_if_not_exception_type((ImageError, EngineUnavailableError, EngineTimeoutError)),
        before_sleep=before_sleep_log(LOGGER, logging.INFO),
        reraise=True,
    )
    with using_images(environment.image):
        ensure_image(engine, environment)
        return retrying(_open_once, engine, environment, limits, keep_prepared, name_hint)


def _open_once(
    engine: Engine, environment: InstanceEnvironment, limits: ContainerLimits, keep_prepared: bool, name_hint: str
) -> Session:
    prepared: PreparedImage | None
    if keep_prepared or limits.user != ROOT:
        prepared = ensure_prepared(engine, environment, limits.user)
    else:
        prepared = find_prepared(engine, environment, limits.user)
    image = prepared.name if prepared else environment.image
    container = Container.start(engine, image, limits=limits, name_hint=name_hint)
    try:
        base = prepared.base if prepared else prepare(container, environment, limits.user)
        return enter(container, environment, base)
    except BaseException:
        container.close()
        raise


def enter(container: Container, environment: InstanceEnvironment, base: WorkTreeBase) -> Session:
    """Open a shell in a container that is ready; the caller closes the container where this fails."""
    variables = dict(DEFAULT_ENVIRONMENT)
    if container.limits.user != ROOT:
        variables["HOME"] = "/tmp"
    egress: Egress | None = None
    if environment.network:
        egress = Egress.open(container, environment.network)
        variables |= egress.environment
    try:
        shell = Shell(container, workdir=environment.workdir, activate=environment.activate, environment=variables)
    except BaseException:
        if egress is not None:
            egress.close()
        raise
    return Session(environment=environment, container=container, shell=shell, base=base, egress=egress)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Ahead:
    """A session that is being opened ahead of its episode."""

    future: "Future[Session]"
    used: Session | None = None
    """The used session that it is made of, to be closed where that is not begun."""


class WarmPool:
    """Sessions opened ahead of their episodes, and closed or rewound behind them, by one thread in the background.

    Serves one user (an environment) at a time; `max_total` bounds what waits, the ones longest unused go first.
    """

    def __init__(self, engine: Engine, limits: ContainerLimits, *, max_per_image: int, max_total: int = 4) -> None:
        self._engine = engine
        self._limits = limits
        self._max_per_image = max_per_image
        self._max_total = max(max_total, max_per_image)
        self._waiting: defaultdict[InstanceEnvironment, deque[_Ahead]] = defaultdict(deque)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="warm-pool")
        self._lock = threading.Lock()

    def take(self, environment: InstanceEnvironment, *, name_hint: str = "") -> Session:
        """Return a session that nobody has used: one that waits, else one opened now.

        Raises:
            ContainerError: none could be opened.
        """
        while (ahead := self._pop(environment)) is not None:
            if self._cancel(ahead):  # not begun: sooner done here
                continue
            try:
                session = ahead.future.result()
            except ContainerError as error:
                LOGGER.debug("a session could not be opened ahead: %s", error)
                continue
            if session.is_usable():
                return session
            self.discard(session)
        return self._open(environment, name_hint)

    def expect(self, environment: InstanceEnvironment) -> None:
        """Open sessions of an environment ahead, up to the pool's bounds."""
        with self._lock:
            waiting = self._waiting.pop(environment, deque())
            self._waiting[environment] = waiting  # now the one used last
            while len(waiting) < self._max_per_image:
                waiting.append(_Ahead(future=self._thread.submit(self._open, environment, "warm")))
            surplus = []
            for other in list(self._waiting):
                while self._waiting[other] and sum(map(len, self._waiting.values())) > self._max_total:
                    surplus.append(self._waiting[other].popleft())
        for ahead in surplus:
            self._drop(ahead)

    def discard(self, session: Session, *, again: bool = False) -> None:
        """Close a used session in the background, or with `again` bring it back to its start for another episode."""
        if again and self._max_per_image:
            with self._lock:
                future = self._thread.submit(self._renew, session)
                self._waiting[session.environment].append(_Ahead(future=future, used=session))
        else:
            self._thread.submit(_close_quietly, lambda: session)

    def close(self) -> None:
        """Close every session that waits, and wait until all are closed that were given back."""
        with self._lock:
            waiting = [ahead for several in self._waiting.values() for ahead in several]
            self._waiting.clear()
        for ahead in waiting:
            self._drop(ahead)
        self._thread.shutdown(wait=True)

    def _open(self, environment: InstanceEnvironment, name_hint: str) -> Session:
        return open_session(
            self._engine, environment, limits=self._limits, keep_prepared=self._max_per_image > 0, name_hint=name_hint
        )

    def _renew(self, used: Session) -> Session:
        try:
            if renewed := used.rewind():
                return renewed
        except ContainerError as error:
            LOGGER.debug("a session could not be rewound: %s", error)
        _close_quietly(lambda: used)
        return self._open(used.environment, "warm")

    def _pop(self, environment: InstanceEnvironment) -> _Ahead | None:
        with self._lock:
            waiting = self._waiting.get(environment)
            return waiting.popleft() if waiting else None

    def _cancel(self, ahead: _Ahead) -> bool:
        """Keep what is not begun from being begun; False where it is too late for that."""
        cancelled = ahead.future.cancel()
        if cancelled and (used := ahead.used) is not None:
            self._thread.submit(_close_quietly, lambda: used)
        return cancelled

    def _drop(self, ahead: _Ahead) -> None:
        if not self._cancel(ahead):
            self._thread.submit(_close_quietly, ahead.future.result)


def _close_quietly(session: Callable[[], Session]) -> None:
    """Close a session in the background, where nobody could handle the failure of the engine."""
    try:
        session().close()
    except ContainerError as error:
        LOGGER.debug("a session could not be opened or closed in the background: %s", error)
