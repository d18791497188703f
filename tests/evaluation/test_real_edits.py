"""The single-shot settings on a real instance: a model that knows the gold patch answers with its hunks as edits."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from srl_swe.cli.eval import run as run_eval
from srl_swe.environments.engine import Engine
from srl_swe.environments.patching import touched_parts
from srl_swe.evaluation.choice import Choice
from srl_swe.evaluation.record import read_record
from srl_swe.evaluation.splits import load_split
from tests.evaluation.chat_server import Reply, chat_server, says

pytestmark = [pytest.mark.docker, pytest.mark.slow]

NAME = "marshmallow-code__apispec.8b421526.func_pm_remove_loop__pfp71nlz"


def as_edits(patch: str) -> str:
    """Hunks of a patch in the form that the prompt asks for."""
    found = []
    for part in re.split(r"^(?=diff --git )", patch, flags=re.MULTILINE)[1:]:
        (path,) = re.findall(r"^\+\+\+ b/(.+)$", part, flags=re.MULTILINE)
        for hunk in re.split(r"^@@ .*\n", part, flags=re.MULTILINE)[1:]:
            lines = hunk.splitlines()
            before = "".join(f"{line[1:]}\n" for line in lines if line[:1] in ("-", " "))
            after = "".join(f"{line[1:]}\n" for line in lines if line[:1] in ("+", " "))
            found.append(f"### {path}\n<<<<<<< SEARCH\n{before}=======\n{after}>>>>>>> REPLACE")
    return "<think>\nI know it.\n</think>\n" + "\n\n".join(found)


def test_gold_as_edits_resolves_in_both_settings(tmp_path: Path, shared_data: Path, tiny_engine: Engine) -> None:
    rows = str(shared_data / "pypi_swe" / "instances.jsonl")
    (instance,) = load_split(rows, Choice(instance_ids=(NAME,)))
    paths = sorted(touched_parts(instance.gold_patch))

    def reply(body: dict[str, Any], number: int) -> Reply:
        shown = body["messages"][1]["content"]
        if "<files>" in shown:
            listed = shown.split("<files>\n")[1].split("\n</files>")[0].splitlines()
            assert set(paths) < set(listed)
            return says("<think>\nThere.\n</think>\n```\n" + "\n".join(paths) + "\n```")
        assert all(f"<file path={path!r}>" in shown for path in paths)
        return says(as_edits(instance.gold_patch))

    with chat_server(reply) as server:
        for scaffold in ("oracle-edit", "agentless"):
            out = tmp_path / scaffold
            asked = ["--instances", rows, "--instance-ids", NAME, "--endpoint", server.url, "--model", "knows"]
            assert run_eval([*asked, "--scaffold", scaffold, "--output", str(out)]) == 0
            (outcome,) = read_record(out).instances
            assert outcome.outcome == "resolved"
            (path,) = (out / "trajectories").iterdir()
            assert json.loads(path.read_text())["info"]["srl_swe"]["exit_status"] == "submitted"
    assert len(server.asked) == 3
