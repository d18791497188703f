"""Several predictions of each instance: one folder per sample, and pass@k over all of them."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from srl_swe.evaluation.record import read_record
from srl_swe.evaluation.report import Summary
from srl_swe.evaluation.statistics import pass_at_k
from srl_swe.files import write_atomically

SAMPLES_FILE = "samples.json"


def sample_folders(output: Path, num_samples: int) -> list[Path]:
    """Return the folder of every sample's evaluation: the output itself where there is one sample."""
    if num_samples == 1:
        return [output]
    return [output / f"sample-{number}" for number in range(1, num_samples + 1)]


def pass_rates(folders: Sequence[Path]) -> dict[int, float]:
    """Return k -> pass@k over all instances asked for, k = 1 … number of samples; invalid ones count as not resolved.

    Raises:
        DataError: a folder holds no evaluation.
    """
    num_resolved: dict[str, int] = {}
    for folder in folders:
        for instance in read_record(folder).instances:
            resolved = instance.outcome == "resolved"
            num_resolved[instance.instance_id] = num_resolved.get(instance.instance_id, 0) + resolved
    counts = num_resolved.values()
    return {
        k: sum(pass_at_k(len(folders), count, k) for count in counts) / len(counts) for k in range(1, len(folders) + 1)
    }


def sample_lines(summaries: Sequence[Summary], output: Path) -> Iterator[str]:
    """Write samples.json and say pass@k, line by line."""
    rates = pass_rates(sample_folders(output, len(summaries)))
    record = {"schema_version": 1, "num_samples": len(summaries), "pass_at_k": rates}
    write_atomically(output / SAMPLES_FILE, json.dumps(record, indent=2) + "\n")
    for k, rate in rates.items():
        yield f"pass@{k}: {100 * rate:.1f} %"
    num_invalid = sum(summary.num_invalid for summary in summaries)
    if num_invalid:
        yield f"{num_invalid} verdicts are invalid and count as not resolved; run again to retry them"
