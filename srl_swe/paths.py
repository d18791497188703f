"""Where the project keeps what it can make again: downloads, models, locks."""

import os
from pathlib import Path


def cache_dir() -> Path:
    """Return the cache folder: $SRL_SWE_CACHE, else `srl_swe` under the user's cache folder. Not created here."""
    own = os.environ.get("SRL_SWE_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "srl_swe"
