"""The data sheet of a compiled set: what is in it, where it came from, and under which licence that was published.

Follows the questions of "Datasheets for Datasets" (arXiv 1803.09010) as far as a compiler can answer them.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """A published data set, or a family of files."""

    name: str
    licence: str


SOURCES: Mapping[str, Source] = {
    "mini_swe_agent": Source(
        name="mini-swe-agent records (.traj.json), srl_swe's own included", licence="that of whoever recorded them"
    ),
    "swe_agent": Source(name="SWE-agent records (.traj)", licence="that of whoever recorded them"),
    "swe_smith": Source(name="SWE-bench/SWE-smith-trajectories", licence="MIT"),
    "swe_gym_openhands_sampled": Source(name="SWE-Gym/OpenHands-Sampled-Trajectories", licence="MIT"),
    "swe_gym_openhands_sft": Source(name="SWE-Gym/OpenHands-SFT-Trajectories", licence="MIT"),
    "openhands": Source(name="OpenHands evaluation outputs (output.jsonl)", licence="that of whoever recorded them"),
    "nebius_swe_agent": Source(name="nebius/SWE-agent-trajectories", licence="CC-BY-4.0"),
    "nebius_openhands": Source(name="nebius/SWE-rebench-openhands-trajectories", licence="CC-BY-4.0"),
}
"""By the name that a reader gives its trajectories (`Trajectory.source`)."""


def data_sheet(manifest: Mapping[str, object]) -> str:
    """Return the data sheet of the set that a manifest describes, in Markdown."""
    trajectories, examples = _numbers(manifest.get("num_trajectories")), _numbers(manifest.get("num_examples"))
    lines = [
        "# Data sheet",
        "",
        "Step examples compiled by srl_swe from recorded runs of software-engineering agents. Each example is a "
        "context (a problem statement, earlier commands and what they printed) and the command that the expert gave "
        "next.",
        "",
        "## Composition",
        "| part | trajectories | step examples |",
        "|---|---|---|",
        *(f"| {part} | {trajectories.get(part, 0)} | {examples.get(part, 0)} |" for part in trajectories),
        "",
        "## Sources and licences",
        "Code that shows in observations and patches keeps the licence of its repository.",
        "",
        "| source | published as | licence | trajectories | step examples |",
        "|---|---|---|---|---|",
        *_source_lines(manifest),
        "",
        "## What was left out",
        *_drop_lines(manifest),
        "",
        "## How it was made",
        *_config_lines(manifest),
        "",
        "## What it should not be used for",
        "Training a model that is then evaluated on the instances or repositories in it. "
        f"Held out for validation: {_length(manifest.get('validation_instances'))} instances (manifest.json).",
        "",
        f"Content hash: `{manifest.get('content_hash', '')}`",
    ]
    return "\n".join(lines) + "\n"


def _source_lines(manifest: Mapping[str, object]) -> list[str]:
    trajectories, examples = _numbers(manifest.get("trajectories")), _numbers(manifest.get("examples"))
    lines = []
    for name, count in trajectories.items():
        source = SOURCES.get(name, Source(name=name, licence="unknown"))
        lines.append(f"| {name} | {source.name} | {source.licence} | {count} | {examples.get(name, 0)} |")
    return lines or ["| not told | | | | |"]


def _drop_lines(manifest: Mapping[str, object]) -> list[str]:
    drops = manifest.get("drops")
    if not isinstance(drops, Mapping) or not drops:
        return ["Nothing."]
    lines = ["| source | reason | count |", "|---|---|---|"]
    for source, reasons in drops.items():
        lines.extend(f"| {source} | {reason} | {count} |" for reason, count in _numbers(reasons).items())
    return lines


def _config_lines(manifest: Mapping[str, object]) -> list[str]:
    lines = [f"- srl_swe {manifest.get('srl_swe_version', '')}, schema version {manifest.get('schema_version', '')}"]
    inputs = manifest.get("paths")
    if isinstance(inputs, list):
        lines.extend(f"- input: {path}" for path in inputs)
    if "seed" in manifest:
        lines.append(f"- seed of the split: {manifest['seed']}")
    options = manifest.get("filter")
    if isinstance(options, Mapping):
        lines.extend(f"- {name}: {value}" for name, value in options.items())
    return lines


def _numbers(value: object) -> dict[str, int]:
    return (
        {str(name): count for name, count in value.items() if isinstance(count, int)}
        if isinstance(value, Mapping)
        else {}
    )


def _length(value: object) -> int:
    return len(value) if isinstance(value, list) else 0
