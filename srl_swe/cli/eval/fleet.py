"""Where an evaluation acts and grades, as the options say: one engine, several by address, or nodes of a cluster."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from srl_swe.cli.image_options import RunImageOptions
from srl_swe.errors import ConfigError, EngineUnavailableError
from srl_swe.evaluation.fleet import Fleet
from srl_swe.types import Instance

if TYPE_CHECKING:
    from srl_swe.environments.image_supply import ImageSupply


@dataclass(frozen=True, kw_only=True, slots=True)
class FleetOptions:
    """Where episodes are played and patches graded."""

    executor: Literal["local", "ray"] = "local"
    """ray: the instances are spread over the nodes of a Ray cluster, each with its own engine; needs the extra
    [fleet]. docs/fleet.md says how a cluster is set up."""
    engines: str | None = None
    """Addresses of container engines with commas between them, for example tcp://a:2375,ssh://b: the instances are
    spread over them. Default: the engine of this machine, or what DOCKER_HOST names."""
    ray_address: str | None = None
    """With --executor ray: address of a running cluster, HOST:PORT or auto; default: Ray is started on this machine."""
    ray_resource: str | None = None
    """With --executor ray: only nodes that have this custom resource take part; default: all nodes."""

    def __post_init__(self) -> None:
        if self.executor == "ray" and self.engines is not None:
            raise ConfigError("engines: with --executor ray each node has its own engine; leave one of the two out")
        if self.executor != "ray" and (self.ray_address is not None or self.ray_resource is not None):
            raise ConfigError("ray_address and ray_resource are about a cluster: give --executor ray")

    @property
    def is_elsewhere(self) -> bool:
        """Whether the containers are at other engines than the one that this machine uses by itself."""
        return self.executor == "ray" or self.engines is not None


@contextmanager
def opened_fleet(
    options: FleetOptions,
    image_options: RunImageOptions,
    instances: Sequence[Instance],
    *,
    max_parallel: int,
) -> "Iterator[tuple[Fleet, ImageSupply | None]]":
    """Open what patches are graded at until the end of the block, and what brings its images where that is asked for.

    `instances` are those that are acted on or graded.

    Raises:
        EngineUnavailableError: nothing answers.
        MissingExtraError: ray is not installed.
        ConfigError: an address is none.
    """
    if options.executor == "ray":
        from srl_swe.evaluation.ray_nodes import RayConfig, RayNodes

        config = RayConfig(address=options.ray_address, resource=options.ray_resource, max_parallel=max_parallel)
        with RayNodes(config) as nodes, Fleet(nodes.open_places(), find_more=nodes.open_places) as fleet:
            if not fleet.places:
                which = f" that has the resource {options.ray_resource}" if options.ray_resource else ""
                raise EngineUnavailableError(f"no node of the Ray cluster{which} can grade; warnings above say why")
            yield fleet, None
        return
    if options.engines is not None:
        from srl_swe.evaluation.engine_list import EngineList

        addresses = [address.strip() for address in options.engines.split(",") if address.strip()]
        engines = EngineList(addresses)
        with Fleet(engines.open_places(), find_more=engines.open_places) as fleet:
            if not fleet.places:
                raise EngineUnavailableError(f"none of the engines {options.engines} answers; warnings above say why")
            yield fleet, None
        return
    from srl_swe.environments.connect import connect_engine
    from srl_swe.evaluation.places import EnginePlace

    with ExitStack() as stack:
        engine = stack.enter_context(connect_engine())
        images = image_options.supply(engine, instances)
        if images is not None:
            stack.enter_context(images)
        yield stack.enter_context(Fleet([EnginePlace(engine.name, engine, images=images)])), images
