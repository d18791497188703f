"""Engines by their addresses as places. Left out: what an address is (`srl_swe.environments.connect`)."""

import logging
from collections.abc import Collection, Sequence

from srl_swe.environments.connect import check_address, connect_engine_at
from srl_swe.errors import ConfigError, ContainerError
from srl_swe.evaluation.places import EnginePlace, LatelyTried, Place
from srl_swe.pool import WorkPool, WorkTimeoutError

_CALL_LIMIT_S = 60.0
_OPEN_LIMIT_S = 120.0

logger = logging.getLogger(__name__)


class EngineList:
    """Addresses of engines, each of which is connected to when it answers."""

    def __init__(self, addresses: Sequence[str]) -> None:
        """Check the addresses.

        Raises:
            ConfigError: one is no address, one is there twice, or there is none.
        """
        for address in addresses:
            check_address(address)
        twice = sorted({address for address in addresses if addresses.count(address) > 1})
        if twice or not addresses:
            raise ConfigError(f"engines: {f'{twice[0]} is there twice' if twice else 'there is no address'}")
        self._addresses = tuple(addresses)
        self._tried = LatelyTried()

    def open_places(self, not_wanted: Collection[str] = ()) -> list[Place]:
        """Connect to the engines that answer and are not named in `not_wanted`; the others are tried again later."""
        wanted = [address for address in self._addresses if address not in not_wanted and self._tried.take(address)]
        opened: list[Place] = []
        for address, outcome in WorkPool(len(wanted) or 1).run(wanted, _open, limit_s=lambda _: _OPEN_LIMIT_S):
            if isinstance(outcome, (ContainerError, WorkTimeoutError)):
                logger.warning("%s does not take part: %s", address, outcome)
            elif isinstance(outcome, Exception):
                raise outcome
            else:
                opened.append(outcome)
        return sorted(opened, key=lambda place: self._addresses.index(place.name))


def _open(address: str) -> EnginePlace:
    return EnginePlace(address, connect_engine_at(address, timeout_s=_CALL_LIMIT_S), close_engine=True)
