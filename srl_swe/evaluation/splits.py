"""Which instances an evaluation asks for: a published split by its short name, or a local file.

Reading a file and turning rows into instances is left to `srl_swe.environments.instances`.
"""

from pathlib import Path

from srl_swe.environments.instances import instance_from_row, load_instances
from srl_swe.errors import DataError, MissingExtraError
from srl_swe.evaluation.choice import Choice
from srl_swe.types import Instance

HUB_SPLITS: dict[str, tuple[str, str]] = {
    "verified": ("SWE-bench/SWE-bench_Verified", "test"),
    "lite": ("SWE-bench/SWE-bench_Lite", "test"),
    "lite-dev": ("SWE-bench/SWE-bench_Lite", "dev"),
    "full": ("SWE-bench/SWE-bench", "test"),
    "dev": ("SWE-bench/SWE-bench", "dev"),
    "multilingual": ("SWE-bench/SWE-bench_Multilingual", "test"),
    "multimodal-dev": ("SWE-bench/SWE-bench_Multimodal", "dev"),
    "swe-gym": ("SWE-Gym/SWE-Gym", "train"),
    "swe-gym-lite": ("SWE-Gym/SWE-Gym-Lite", "train"),
    "swe-smith": ("SWE-bench/SWE-smith", "train"),
    "swe-rebench": ("nebius/SWE-rebench", "filtered"),
    "swe-rebench-leaderboard": ("nebius/SWE-rebench-leaderboard", "test"),
    "r2e-gym": ("R2E-Gym/R2E-Gym-Subset", "train"),
    "r2e-gym-lite": ("R2E-Gym/R2E-Gym-Lite", "train"),
}
"""Short name -> (data set on the hub, its split); SWE-bench's as of swebench 5.0.2."""

EVERYTHING = Choice()


def load_split(name: str, choice: Choice = EVERYTHING) -> tuple[Instance, ...]:
    """Load the chosen instances of a short name ("verified"), a hub data set ("owner/name:split") or a local file.

    An existing file wins over a name.

    Raises:
        DataError: there is no such file or split, the hub does not answer, or the choice matches nothing.
        MissingExtraError: a hub name is given and `datasets` is not installed.
    """
    path = Path(name).expanduser()
    return choice.of(load_instances(path) if path.is_file() or _looks_like_file(name) else _from_hub(name))


def _looks_like_file(name: str) -> bool:
    return name.endswith((".parquet", ".jsonl", ".json")) or name.startswith(("/", "./", "../", "~"))


def _from_hub(name: str) -> list[Instance]:
    hub_name, split = HUB_SPLITS.get(name.lower(), ("", ""))
    if not hub_name:
        hub_name, _, split = name.partition(":")
        if hub_name.count("/") != 1 or not split:
            raise DataError(
                f"{name!r} is neither a file nor a known split; expected one of {', '.join(HUB_SPLITS)}, "
                "a hub data set as owner/name:split, or a local .parquet or .jsonl file"
            )
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise MissingExtraError(
            f"reading {hub_name} from the hub needs the package datasets: pip install 'srl-swe[eval]', "
            "or give a local .parquet or .jsonl file"
        ) from error
    try:
        rows = load_dataset(hub_name, split=split)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{hub_name}, split {split!r}, cannot be loaded from the hub: {error}. "
            "Check the name and the network, or give a local .parquet or .jsonl file of the same rows"
        ) from error
    return [instance_from_row(row, where=f"{hub_name}:{split}, row {number}") for number, row in enumerate(rows)]
