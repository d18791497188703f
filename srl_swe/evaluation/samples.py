"""Several predictions of each instance: one folder per sample, and pass@k over all of them.

samples.json says what is known of all samples together; `samples_page` makes the page of it.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from srl_swe.errors import DataError
from srl_swe.evaluation.record import Outcome, read_record
from srl_swe.evaluation.report import Summary
from srl_swe.evaluation.statistics import mean_interval, pass_at_k
from srl_swe.files import write_atomically

SAMPLES_FILE = "samples.json"
SCHEMA_VERSION = 2


@dataclass(frozen=True, kw_only=True, slots=True, config=ConfigDict(extra="ignore"))
class SamplesRecord:
    """What is known of all samples of an evaluation."""

    num_samples: int
    pass_at_k: Mapping[int, float]
    """k -> estimate over all instances asked for, k = 1 … number of samples; invalid ones count as not resolved."""
    intervals: Mapping[int, tuple[float, float] | None]
    """k -> 95 % percentile bootstrap interval over instances; None where they do not vary."""
    folders: tuple[str, ...]
    """Each sample's evaluation, relative to this file."""
    instances: Mapping[str, tuple[Outcome, ...]]
    """Instance id -> its outcome in each sample, in the order asked for."""
    schema_version: int = SCHEMA_VERSION

    def num_resolved(self, instance_id: str) -> int:
        """Return how many samples resolve an instance."""
        return self.instances[instance_id].count("resolved")


_RECORD: TypeAdapter[SamplesRecord] = TypeAdapter(SamplesRecord)


def sample_folders(output: Path, num_samples: int) -> list[Path]:
    """Return the folder of every sample's evaluation: the output itself where there is one sample."""
    if num_samples == 1:
        return [output]
    return [output / f"sample-{number}" for number in range(1, num_samples + 1)]


def collect_samples(output: Path, num_samples: int) -> SamplesRecord:
    """Put the evaluations of all samples together.

    Raises:
        DataError: a folder holds no evaluation, or the samples are not of the same instances.
    """
    folders = sample_folders(output, num_samples)
    outcomes: dict[str, list[Outcome]] = {}
    for number, folder in enumerate(folders):
        for instance in read_record(folder).instances:
            outcomes.setdefault(instance.instance_id, []).append(instance.outcome)
        uneven = [name for name, found in outcomes.items() if len(found) != number + 1]
        if uneven:
            raise DataError(
                f"{folder}: instance {uneven[0]} is not in every sample's evaluation; expected the same instances in"
                f" all of {output}: run the same evaluation once more"
            )
    counts = [found.count("resolved") for found in outcomes.values()]
    rates: dict[int, float] = {}
    intervals: dict[int, tuple[float, float] | None] = {}
    for k in range(1, num_samples + 1):
        estimates = [pass_at_k(num_samples, count, k) for count in counts]
        rates[k] = sum(estimates) / len(estimates)
        intervals[k] = mean_interval(estimates)
    return SamplesRecord(
        num_samples=num_samples,
        pass_at_k=rates,
        intervals=intervals,
        folders=tuple(str(folder.relative_to(output)) for folder in folders),
        instances={name: tuple(found) for name, found in outcomes.items()},
    )


def sample_lines(summaries: Sequence[Summary], output: Path) -> Iterator[str]:
    """Write samples.json and say pass@k, line by line."""
    record = collect_samples(output, len(summaries))
    text = json.dumps(_RECORD.dump_python(record, mode="json"), indent=2)
    write_atomically(output / SAMPLES_FILE, text + "\n")
    for k, rate in record.pass_at_k.items():
        interval = record.intervals[k]
        shown = f" (95 % {100 * interval[0]:.1f}-{100 * interval[1]:.1f})" if interval else ""
        yield f"pass@{k}: {100 * rate:.1f} %{shown}"
    num_invalid = sum(summary.num_invalid for summary in summaries)
    if num_invalid:
        yield f"{num_invalid} verdicts are invalid and count as not resolved; run again to retry them"


def read_samples_record(output: Path) -> SamplesRecord:
    """Read samples.json.

    Raises:
        DataError: it is missing, damaged or older than this schema.
    """
    path = output / SAMPLES_FILE
    try:
        record = _RECORD.validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise DataError(f"{output}: no {SAMPLES_FILE}; expected the output folder of srl-swe eval --samples") from error
    except (OSError, ValidationError) as error:
        raise DataError(
            f"{path}: not a record of several samples, or of an older version: {error}; run the same evaluation once"
            " more: what is graded is not graded again"
        ) from error
    for folder in record.folders:
        if not (output / folder).resolve().is_relative_to(output.resolve()):
            raise DataError(f"{path}: folders: {folder!r} leads out of the folder")
    return record
