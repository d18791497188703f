"""mini-swe-agent's `.traj.json` files, versions 1 and 2 (text mode and tool calls), and the report beside them.

Records of our own environment (`srl_swe.environments.recording`) have the same form. What they hold is exact, so it is
taken as it stands: no rule that guesses at what a scaffold added is applied to them.
"""

import json
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from srl_swe.errors import DataError
from srl_swe.prompts import ISSUE_TEMPLATE
from srl_swe.trajectories.actions import SUBMIT, clean_text
from srl_swe.trajectories.formats.assemble import Call, Turn, build_steps, find_problem_statement
from srl_swe.trajectories.formats.chat import read_messages, text_of
from srl_swe.trajectories.formats.drops import DropCounter, Reason
from srl_swe.trajectories.formats.reports import resolved_by_report
from srl_swe.trajectories.formats.texts import fenced_blocks
from srl_swe.types import Step, Trajectory

SOURCE = "mini_swe_agent"
SUFFIX = ".traj.json"

_LANGUAGES = "bash|mswea_bash_command"
_THOUGHT_MARK = re.compile(r"\s*\**THOUGHT:?\**:?\s*")
_RETURN_CODE = re.compile(r"<returncode>(-?\d+)</returncode>\s*")
_OUTPUT = re.compile(r"<output>\n?(.*)</output>", re.DOTALL)
_HEAD_TAIL = re.compile(
    r"<output_head>\n?(?P<head>.*)</output_head>\s*<elided_chars>\s*(?P<elided>.*?)\s*</elided_chars>\s*"
    r"<output_tail>\n?(?P<tail>.*)</output_tail>",
    re.DOTALL,
)


def read_row(row: Mapping[str, object], *, path: Path, where: str, drops: DropCounter) -> Trajectory | None:
    """Read one file's document, or count in `drops` why it cannot be used.

    The final `submit` is added where the exit status says "Submitted" and no step says so.

    Raises:
        DataError: a field is not what the format says.
    """
    messages = read_messages(row.get("messages"))
    info = row.get("info")
    info = info if isinstance(info, Mapping) else {}
    ours = info.get("srl_swe")
    problem_statement = _own_problem_statement(messages) if isinstance(ours, Mapping) else None
    if problem_statement is None:
        problem_statement = _problem_statement(messages, info)
    if problem_statement is None:
        drops.drop(SOURCE, Reason.NO_PROBLEM_STATEMENT, where)
        return None
    instance_id = row.get("instance_id")
    if not isinstance(instance_id, str) or not instance_id:
        instance_id = path.name.removesuffix(".json").removesuffix(".traj")
    if isinstance(ours, Mapping):
        steps, verdict = _own_steps(messages), ours.get("verdict")
    else:
        steps, verdict = build_steps(_turns(messages), source=SOURCE, where=where, drops=drops), _verdict(messages)
    if info.get("exit_status") == "Submitted" and steps and steps[-1].action != SUBMIT:
        drops.note(SOURCE, Reason.ADDED_SUBMIT, where)
        steps = (*steps, Step(thought="", action=SUBMIT, observation="", exit_code=None))
    patch = info.get("submission")
    return Trajectory(
        trajectory_id="",
        instance_id=instance_id,
        problem_statement=problem_statement,
        steps=steps,
        patch=clean_text(patch) if isinstance(patch, str) else "",
        source=SOURCE,
        model=_model(info),
        resolved=verdict == "resolved"
        if verdict in ("resolved", "unresolved")
        else resolved_by_report(path, instance_id),
        exit_status=clean_text(status) if isinstance(status := info.get("exit_status"), str) else "",
    )


def _verdict(messages: Sequence[Mapping[str, object]]) -> object:
    """Return the verdict that our environment gave mini-swe-agent's agent with its last message; None = it did not."""
    extra = messages[-1].get("extra") if messages else None
    return extra.get("verdict") if isinstance(extra, Mapping) else None


def _own_steps(messages: Sequence[Mapping[str, object]]) -> tuple[Step, ...]:
    """Read the steps of one of our own records: each message with an action, and the answer right after it."""
    steps = []
    for index, (message, answer) in enumerate(pairwise(messages)):
        commands = _commands(message, "") if message["role"] == "assistant" else []
        if not commands:
            continue
        extra = answer.get("extra")
        answered = extra if isinstance(extra, Mapping) else {}
        command, observation, code = commands[0], answered.get("raw_output"), answered.get("returncode")
        if len(commands) != 1 or not isinstance(command, str) or not isinstance(observation, str):
            raise DataError(
                f"`messages`[{index}]: a record of srl_swe has one command here and `raw_output` in the next message; "
                f"found {len(commands)} command(s) and an output of type {type(observation).__name__}"
            )
        steps.append(
            Step(
                thought=clean_text(text_of(message.get("content"))),
                action=clean_text(command),
                observation=clean_text(observation),
                exit_code=code if isinstance(code, int) and code >= 0 else None,
            )
        )
    return tuple(steps)


def _own_problem_statement(messages: Sequence[Mapping[str, object]]) -> str | None:
    """Return what stands in the place of the problem statement, to the letter; None where the prompt is another."""
    prompt = next((text_of(message.get("content")) for message in messages if message["role"] == "user"), "")
    before, after = ISSUE_TEMPLATE.split("{{task}}")
    if not prompt.startswith(before) or not prompt.endswith(after):
        return None
    return clean_text(prompt[len(before) : len(prompt) - len(after)]) or None


def _turns(messages: Sequence[Mapping[str, object]]) -> list[Turn]:
    turns = []
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        answers = []
        for answer in messages[index + 1 :]:
            if answer["role"] in ("assistant", "exit"):
                break
            answers.append(answer)
        text = text_of(message.get("content"))
        commands = _commands(message, text)
        if not message.get("tool_calls") and (blocks := fenced_blocks(text, _LANGUAGES)):
            text = text[: blocks[0].start]
        # A command that was refused (a format error) is answered by text without a return code.
        calls = [_call(command, answers[i] if i < len(answers) else None) for i, command in enumerate(commands)]
        turns.append(Turn(text=text[mark.end() :] if (mark := _THOUGHT_MARK.match(text)) else text, calls=tuple(calls)))
    return turns


def _commands(message: Mapping[str, object], text: str) -> list[object]:
    extra = message.get("extra")
    actions = extra.get("actions") if isinstance(extra, Mapping) else None
    if isinstance(actions, list):
        return [action.get("command") if isinstance(action, Mapping) else None for action in actions]
    tool_calls = message.get("tool_calls")
    if isinstance(tool_calls, list):
        return [_tool_command(tool_call) for tool_call in tool_calls]
    blocks = fenced_blocks(text, _LANGUAGES)
    return [blocks[0].content] if len(blocks) == 1 else []


def _tool_command(tool_call: object) -> object:
    function = tool_call.get("function") if isinstance(tool_call, Mapping) else None
    arguments = function.get("arguments") if isinstance(function, Mapping) else None
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments, strict=False)
        except ValueError:
            return None
    return arguments.get("command") if isinstance(arguments, Mapping) else None


def _call(command: object, answer: Mapping[str, object] | None) -> Call:
    arguments = {"command": command} if isinstance(command, str) else None
    if answer is None:
        return Call(name="bash", arguments=arguments, observation=None)
    extra = answer.get("extra")
    if isinstance(extra, Mapping) and isinstance(extra.get("raw_output"), str):
        code = extra.get("returncode")
        observation = str(extra["raw_output"])
        reason = extra.get("exception_info")
        if not observation and isinstance(reason, str) and "timed out" in reason:
            observation = "The command was ended by the time limit."
    else:
        observation, code = _shown_output(text_of(answer.get("content")))
    # The agent writes -1 where it has no exit code, for example after its time limit.
    exit_code = code if isinstance(code, int) and code >= 0 else None
    return Call(name="bash", arguments=arguments, observation=observation.replace("\r\n", "\n"), exit_code=exit_code)


def _shown_output(text: str) -> tuple[str, int | None]:
    """Read `<returncode>…</returncode><output>…</output>`, and its shape for long outputs."""
    code = _RETURN_CODE.match(text)
    rest = text[code.end() :] if code else text
    exit_code = int(code.group(1)) if code else None
    if output := _OUTPUT.search(rest):
        return output.group(1), exit_code
    if parts := _HEAD_TAIL.search(rest):
        return f"{parts['head'].rstrip()}\n[{parts['elided']}]\n{parts['tail']}", exit_code
    return rest, exit_code


def _problem_statement(messages: Sequence[Mapping[str, object]], info: Mapping[str, object]) -> str | None:
    prompt = next((text_of(message.get("content")) for message in messages if message["role"] == "user"), "")
    tagged = find_problem_statement(prompt)
    if tagged is not None:
        return tagged
    config = info.get("config")
    agent = config.get("agent") if isinstance(config, Mapping) else None
    template = agent.get("instance_template") if isinstance(agent, Mapping) else None
    if not isinstance(template, str) or "{{task}}" not in template.replace("{{ task }}", "{{task}}"):
        return None
    before, after = template.replace("{{ task }}", "{{task}}").split("{{task}}", 1)
    # Only the text next to the place is constant: other template expressions may stand farther away.
    before, after = re.split(r"\{[{%].*?[}%]\}", before)[-1], re.split(r"\{[{%]", after)[0]
    start = prompt.find(before.lstrip()) if before.strip() else 0
    if start < 0:
        return None
    start += len(before.lstrip()) if before.strip() else 0
    end = prompt.find(after.strip(), start) if after.strip() else len(prompt)
    return clean_text(prompt[start:end]).strip() or None if end >= 0 else None


def _model(info: Mapping[str, object]) -> str:
    config = info.get("config")
    model = config.get("model") if isinstance(config, Mapping) else None
    name = model.get("model_name") if isinstance(model, Mapping) else None
    return name if isinstance(name, str) else ""
