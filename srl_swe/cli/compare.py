"""`srl-swe compare`: train by several methods on the same steps, within the same budget; measure what came of it."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Literal

import tyro
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from srl_swe.cli.comparison_plan import Plan, claim_folder, make_plan
from srl_swe.cli.comparison_runs import read_shared_data, run_all
from srl_swe.cli.launched import is_one_of_several
from srl_swe.errors import ConfigError
from srl_swe.evaluation import statistics
from srl_swe.evaluation.methods import CONTROL, Difference, Estimate, MethodComparison, MethodFigures, compare_methods
from srl_swe.evaluation.methods_page import write_methods_page
from srl_swe.files import sole_writer, write_atomically
from srl_swe.training.termination import Terminated, Termination

_RESULT = "comparison.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class CompareCommand:
    """Train a model by several methods and seeds, on the same step examples and within the same budget, and compare
    the final models on held-out steps: similarity, reward, format, tokens per action, with intervals.

    srl-swe compare --methods sft,srl,sft+srl --seeds 3 --data steps/ --model MODEL --output runs/compare
    --num-iterations 40 --prompts-per-iteration 64

    srl-swe compare --methods sft,srl+rlvr --budget tokens --max-trained-tokens 2000000 --data steps/ --model MODEL
    --instances FILE --validation-instances HELD_OUT --output runs/compare

    All further options are those of srl-swe train (see its --help) and hold for every run. --learning-rate and other
    options whose default depends on the method are the paper's per method where they are not given.

    What is the same: the starting model; the step examples (those that one method cannot use are left to none, and
    of a seed they come in the same order); the budget; the prompts. rlvr acts on --instances instead. A chain such as
    sft+srl shares the budget among its stages equally.

    What is measured: the last model of each run, never one chosen by validation, on every step of the validation part.
    With --validation-instances (without rlvr also with --instances) the resolve rate besides, by acting as srl-swe
    eval does; instances whose steps are trained on are left out.

    sft is the control: imitation of the same steps. Give it among the methods to see what rewards add to them.

    The output folder has METHOD/seed-N with an ordinary run folder for each stage, comparison.json and
    comparison.html. The same command goes on where it stopped; methods and seeds may be added.
    """

    methods: str
    """Methods to compare: sft, srl, rlvr, and chains of them with +, for example sft,srl,sft+srl."""
    seeds: str = "3"
    """A count (3 = seeds 0, 1, 2), or a list (4,7; one alone: 7,)."""
    budget: Literal["iterations", "tokens"] = "iterations"
    """What every run has the same of. iterations: --num-iterations of --prompts-per-iteration step examples, of which
    srl trains on a group of rollouts each. tokens: --max-trained-tokens completion tokens in the loss, whoever wrote
    them; the last iteration may go beyond."""
    stage_options: tuple[str, ...] = ()
    """Options of one method, in every chain that has it, for example sft.learning-rate=1e-4 srl.temperature=0.8."""


def run(arguments: Sequence[str]) -> int:
    """Run the command."""
    command, rest = tyro.cli(CompareCommand, prog="srl-swe compare", args=list(arguments), return_unknown_args=True)
    if is_one_of_several():
        raise ConfigError("compare runs in one process; start it without accelerate launch")
    plan = make_plan(command.methods, command.seeds, command.budget, command.stage_options, rest)
    # Needed at the end: what is missing is said at the beginning.
    statistics.check_installed()
    console = Console()
    with sole_writer(plan.output):
        claim_folder(plan)
        try:
            with Termination() as termination:
                data = read_shared_data(plan, console)
                models = run_all(plan, data, termination, console)
        except Terminated:
            models = None
        if models is None:
            console.print("stopped by SIGTERM; the same command goes on")
            return 0
        found = compare_methods(models[0], models[1:], copy_last_similarity=data.copy_last_similarity)
        record = {
            "schema_version": 1,
            "budget": plan.budget,
            "budget_per_run": plan.total,
            "num_training_examples": len(data.train_ids),
            "control": CONTROL if CONTROL in plan.methods else None,
            **asdict(found),
        }
        write_atomically(plan.output / _RESULT, json.dumps(record, indent=1) + "\n")
        _print(plan, found, console)
        page = write_methods_page(plan.output, record, found, console=console)
        console.print(f"written: {plan.output / _RESULT}{f', {page}' if page else ''}", highlight=False, soft_wrap=True)
    return 0


def _print(plan: Plan, found: MethodComparison, console: Console) -> None:
    console.print(_table(found))
    console.print(_differences(found))
    for line in _lines(plan, found):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _table(found: MethodComparison) -> Table:
    num_seeds = len(found.methods[0].seeds)
    seeds = "1 seed" if num_seeds == 1 else f"{num_seeds} seeds"
    table = Table(
        title=f"{found.num_steps} held-out steps, mean over {seeds}; below each 95 % over steps",
        box=SIMPLE,
        pad_edge=False,
        collapse_padding=True,
    )
    acted = any(method.resolve_rate for method in found.methods)
    table.add_column("method", overflow="fold")
    for heading in ("similarity", "reward", "format %", "tokens", *(["resolved %"] if acted else [])):
        table.add_column(heading, justify="right")
    for method in (found.start, *found.methods):
        estimates = method.estimates
        name = f"{method.method} (control)" if method.method == CONTROL else method.method
        cells = [
            _with_interval(estimates["similarity"], 3),
            _with_interval(estimates["reward"], 3),
            _with_interval(estimates["format_rate"], 1, scale=100),
            _with_interval(estimates["completion_tokens"], 1),
        ]
        if acted:
            rate = method.resolve_rate
            cells.append(f"{100 * rate.rate:.1f}\n{100 * rate.low:.1f} to {100 * rate.high:.1f}" if rate else "")
        table.add_row(name, *cells)
    table.add_row("copy-last baseline", f"{found.copy_last_similarity:.3f}")
    return table


def _differences(found: MethodComparison) -> Table:
    table = Table(
        title="Differences, step by step; tokens are of an action, thought included",
        box=SIMPLE,
        pad_edge=False,
        collapse_padding=True,
    )
    table.add_column("methods", overflow="fold")
    for heading in ("similarity", "reward", "format points", "tokens"):
        table.add_column(heading, justify="right")
    for one in found.differences:
        estimates = one.estimates
        table.add_row(
            f"{one.method} - {one.minus}",
            _with_interval(estimates["similarity"], 3, sign=True),
            _with_interval(estimates["reward"], 3, sign=True),
            _with_interval(estimates["format_rate"], 1, scale=100, sign=True),
            _with_interval(estimates["completion_tokens"], 1, sign=True),
        )
    return table


def _with_interval(estimate: Estimate, digits: int, *, scale: float = 1, sign: bool = False) -> str:
    form = f"{'+' if sign else ''}.{digits}f"
    mean = format(scale * estimate.mean, form)
    if estimate.low is None or estimate.high is None:
        return mean
    return f"{mean}\n{format(scale * estimate.low, form)} to {format(scale * estimate.high, form)}"


def _lines(plan: Plan, found: MethodComparison) -> Iterator[str]:
    yield f"budget of every run: {plan.total} {'trained tokens' if plan.budget == 'tokens' else 'iterations'}"
    for method in found.methods:
        yield f"  {method.method}: {_spent_line(method)}"
        if any(ending == "flat" for endings in method.endings for ending in endings):
            yield f"  {method.method}: a stage ended early, as no group carried signal; warm up by SFT (sft+srl)"
    if len(plan.seeds) > 1:
        yield "similarity of each seed:"
        for method in found.methods:
            yield f"  {method.method}: {', '.join(f'{mean:.3f}' for mean in method.by_seed['similarity'])}"
    against_control = [one for one in found.differences if one.minus == CONTROL]
    yield from (_verdict(one) for one in against_control)
    if not against_control:
        yield f"no control: give {CONTROL} among the methods to compare with imitation of the same steps"


def _spent_line(method: MethodFigures) -> str:
    def mean(name: str) -> str:
        return f"{fmean(getattr(spent, name) for spent in method.spent):,.0f}"

    return (
        f"{mean('iterations')} iterations, {mean('trained_tokens')} tokens in the loss, "
        f"{mean('completion_tokens')} sampled or imitated, {mean('tree_tokens')} passed through training, "
        f"{mean('seconds')} s (means over seeds)"
    )


def _verdict(one: Difference) -> str:
    estimate = one.estimates["similarity"]
    if estimate.low is None or estimate.high is None:
        what = "the same on every step"
    elif estimate.low > 0:
        what = "above it on these steps"
    elif estimate.high < 0:
        what = "below it on these steps"
    else:
        what = "not told apart on these steps"
    return f"{one.method} against the control ({CONTROL} on the same steps), similarity: {what}"
