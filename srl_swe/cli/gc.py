"""`srl-swe gc`: remove containers that a dead owner left."""

from collections.abc import Sequence

import tyro


def collect() -> None:
    """Remove the containers on this machine whose owning process is gone.

    Every command that starts containers does this by itself first; containers of live owners, also
    of other users of the tool, are never touched.
    """
    from srl_swe.environments.connect import connect_engine
    from srl_swe.environments.leases import collect_garbage

    engine = connect_engine()
    try:
        removed = collect_garbage(engine)
    finally:
        engine.close()
    print(f"removed {len(removed)} containers of dead owners" + "".join(f"\n  {name}" for name in removed))


def run(arguments: Sequence[str]) -> None:
    """Run the command."""
    tyro.cli(collect, prog="srl-swe gc", args=list(arguments))
