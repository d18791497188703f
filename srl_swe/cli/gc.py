"""`srl-swe gc`: remove containers, snapshots and prepared images that nobody will use any more."""

from collections.abc import Sequence
from typing import Annotated

import tyro


def collect(
    prepared_images: Annotated[
        bool, tyro.conf.arg(help="also remove every prepared image; they are made again")
    ] = False,
) -> None:
    """Remove the containers and snapshots on this machine whose owning process is gone, or whose lease is over.

    Every command that starts containers does this by itself first; what belongs to live owners, also
    of other users of the tool, is never touched. Prepared images whose own image is gone, or which another
    version of the tool prepared, go as well.
    """
    from srl_swe.environments.connect import connect_engine
    from srl_swe.environments.leases import collect_garbage
    from srl_swe.environments.preparation import collect_prepared

    with connect_engine(collect=False) as engine:
        removed = collect_garbage(engine)
        images = collect_prepared(engine, every=prepared_images)
    _say(removed, "containers and snapshots of dead owners")
    _say(images, "prepared images")


def _say(removed: Sequence[str], what: str) -> None:
    print(f"removed {len(removed)} {what}" + "".join(f"\n  {name}" for name in removed))


def run(arguments: Sequence[str]) -> None:
    """Run the command."""
    tyro.cli(collect, prog="srl-swe gc", args=list(arguments))
