"""The single-shot settings: the model sees files and answers with edits; it runs no commands of its own.

Prompts are left to `edit_prompts`, edits to `edits`.
"""

import shlex
from collections.abc import Mapping, Sequence

from srl_swe.environments.patching import touched_parts
from srl_swe.errors import DataError, MalformedCompletionError
from srl_swe.evaluation.acting import ActingEnvironment
from srl_swe.evaluation.chat_models import ChatAnswer, ChatModel
from srl_swe.evaluation.edit_prompts import edit_messages, localise_messages, parse_localisation
from srl_swe.evaluation.edits import apply_edits, parse_edits
from srl_swe.types import Instance, Message

_MAX_SHOWN_PATHS_CHARS = 200_000


def gold_paths(instances: Sequence[Instance]) -> dict[str, tuple[str, ...]]:
    """Return the files that the gold patch of each instance touches, by instance id."""
    return {instance.instance_id: tuple(sorted(touched_parts(instance.gold_patch))) for instance in instances}


class OracleEdit:
    """The files of the gold patch are shown, the model answers with edits (the paper's oracle setting)."""

    def __init__(self, model: ChatModel, paths: Mapping[str, Sequence[str]], *, seed: int) -> None:
        """`paths` by instance id."""
        self._model = model
        self._paths = paths
        self._seed = seed

    def act(self, environment: ActingEnvironment) -> str | None:
        """Ask once for edits and apply them; return what was asked for where it does not apply.

        Raises:
            EpisodeOverError: the answer is malformed, or a limit was reached.
        """
        return _edit(environment, self._model, self._paths[environment.instance_id], seed=self._seed)


class Agentless:
    """The model first names files from the repository's tree, then answers with edits of these (arXiv 2407.01489)."""

    def __init__(self, model: ChatModel, *, num_files: int, seed: int) -> None:
        """`num_files` that the model may name."""
        self._model = model
        self._num_files = num_files
        self._seed = seed

    def act(self, environment: ActingEnvironment) -> str | None:
        """Ask for files, then for edits of these; return what was asked for where it does not apply.

        Raises:
            EpisodeOverError: an answer is malformed, or a limit was reached.
        """
        paths = _all_paths(environment)
        messages = localise_messages(environment.problem_statement, paths, num_files=self._num_files)
        answer = _ask(environment, self._model, messages, seed=self._seed)
        try:
            chosen = parse_localisation(answer.text, paths, num_files=self._num_files)
        except MalformedCompletionError as error:
            _end_malformed(environment, answer, error)
            raise
        environment.run(f"cat -- {shlex.join(chosen)}", completion=answer.text)
        return _edit(environment, self._model, chosen, seed=self._seed + 1)


def _edit(environment: ActingEnvironment, model: ChatModel, paths: Sequence[str], *, seed: int) -> str | None:
    shown = {path: text for path in paths if (text := _read(environment, path)) is not None}
    answer = _ask(environment, model, edit_messages(environment.problem_statement, shown), seed=seed)
    try:
        edits = parse_edits(answer.text)
    except MalformedCompletionError as error:
        _end_malformed(environment, answer, error)
        raise
    # A file that was not shown may be edited all the same, as long as its lines are met.
    edited = dict.fromkeys(edit.path for edit in edits)
    texts = {path: shown[path] if path in shown else _read(environment, path) for path in edited}
    applied = apply_edits(edits, texts)
    if not applied.patch:
        return None
    mark = "PATCH"
    while f"\n{mark}\n" in applied.patch:
        mark += "_"
    outcome = environment.run(f"git apply <<'{mark}'\n{applied.patch}{mark}", completion=answer.text)
    return None if outcome.exit_code == 0 and not applied.not_found else applied.patch


def _ask(environment: ActingEnvironment, model: ChatModel, messages: list[Message], *, seed: int) -> ChatAnswer:
    environment.require_open()
    environment.first_prompt = environment.first_prompt or messages
    return model.complete(messages, seed=seed, budget=environment.budget)


def _end_malformed(environment: ActingEnvironment, answer: ChatAnswer, error: MalformedCompletionError) -> None:
    environment.refuse(answer.text, str(error), cut_off=answer.cut_off)
    environment.end("malformed", str(error))


def _read(environment: ActingEnvironment, path: str) -> str | None:
    """Return a file's text; None where there is no such file, or it is none of text."""
    try:
        return environment.read_file(path).decode()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError, UnicodeDecodeError, DataError):
        return None


def _all_paths(environment: ActingEnvironment) -> list[str]:
    """Return the repository's files; of very many the first ones by path."""
    listing = environment.list_files()
    paths: list[str] = []
    num_chars = 0
    for path in listing:
        num_chars += len(path) + 1
        if num_chars > _MAX_SHOWN_PATHS_CHARS:
            break
        paths.append(path)
    return paths
