"""`srl-swe images verify`: are the images what the instances need?"""

from dataclasses import dataclass
from typing import Annotated

import tyro
from rich.console import Console

from srl_swe.cli.image_options import TaskSetOptions
from srl_swe.evaluation.progress import printable
from srl_swe.pool import WorkPool
from srl_swe.types import Instance

_LIMIT_S = 3600.0


@dataclass(frozen=True, kw_only=True, slots=True)
class VerifyConfig:
    """Check each image of the chosen instances: it is here, its digest is the one that was pulled or that its name
    says, and what evaluation scripts rely on is in it.

    That is: bash, git and patch; the work tree, a git repository whose HEAD contains the base commit; conda's activate
    script where the evaluation script sources it, and that it runs. Looked at in containers without a network.

    Example: srl-swe images verify --split verified --repo django/django
    """

    task_set: Annotated[TaskSetOptions, tyro.conf.arg(name="")]
    max_parallel: int = 2
    """Images checked at once."""


def verify(config: VerifyConfig) -> int:
    """Print the faults; exit code 1 where there are any, or where an image could not be checked."""
    from srl_swe.environments.connect import connect_engine
    from srl_swe.environments.image_checks import ImageFault, check_image
    from srl_swe.environments.image_ledger import ImageLedger
    from srl_swe.errors import EngineUnavailableError, SrlSweError

    console = Console()
    groups: dict[str, list[Instance]] = {}
    for instance in config.task_set.load():
        groups.setdefault(instance.environment.image, []).append(instance)
    num_good, num_failed = 0, 0
    with connect_engine() as engine:
        ledger = ImageLedger(engine.identity)
        pool = WorkPool(config.max_parallel)

        def check(group: list[Instance]) -> list[ImageFault]:
            return check_image(engine, ledger, group)

        for group, outcome in pool.run(list(groups.values()), check, limit_s=lambda _: _LIMIT_S):
            name = group[0].environment.image
            if isinstance(outcome, EngineUnavailableError):
                raise outcome
            if isinstance(outcome, list):
                num_good += not outcome
                lines = [f"{name}: {fault.instance_id and fault.instance_id + ': '}{fault.what}" for fault in outcome]
            elif isinstance(outcome, (SrlSweError, TimeoutError)):
                num_failed += 1
                lines = [f"{name}: could not be checked: {outcome}"]
            else:
                raise outcome
            for line in lines:
                console.print(printable(line), markup=False, highlight=False, soft_wrap=True)
    num_faulty = len(groups) - num_good - num_failed
    console.print(
        f"{num_good} of {len(groups)} images are good, {num_faulty} have faults"
        f"{f', {num_failed} could not be checked' if num_failed else ''}"
    )
    return 0 if num_good == len(groups) else 1
