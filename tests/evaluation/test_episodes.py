"""Episode files: what another reader of mini-swe-agent files sees in them."""

import json
from pathlib import Path

from srl_swe.evaluation.episodes import Episode, write_episode
from srl_swe.evaluation.predictions import read_predictions
from srl_swe.prompts import PromptLimits, answer_malformed, render
from srl_swe.trajectories.formats import DropCounter, read_trajectories
from srl_swe.types import Instance, InstanceEnvironment, InstanceTests, Step

INSTANCE = Instance(
    instance_id="a__b-1",
    repo="a/b",
    base_commit="",
    problem_statement="Adding fails.\n\n    >>> add(2, 3)\n    -1",
    environment=InstanceEnvironment(image="image:1"),
    tests=InstanceTests(script="", parser="parse_log_pytest", fail_to_pass=(), pass_to_pass=()),
    gold_patch="",
)
STEPS = (
    Step(thought="I look.", action="ls -la\ncat calc.py", observation="calc.py\n<output>x</output>\n", exit_code=0),
    Step(thought="Slow.", action="sleep 99", observation="[ended at the time limit of 1 s]", exit_code=None),
    Step(thought="I change it.", action="sed -i 's/-/+/' calc.py", observation="", exit_code=1),
    Step(thought="Done.", action="submit", observation="", exit_code=None),
)


def test_a_reader_of_mini_swe_agent_files_gets_the_same_steps(tmp_path: Path) -> None:
    episode = Episode(instance=INSTANCE)
    episode.add_step("raw one", STEPS[0])
    episode.add_malformed("I am not sure what to do", answer_malformed("…", cut_off=False))
    assert episode.num_malformed_in_a_row == 1
    for step in STEPS[1:]:
        episode.add_step("raw", step)
    assert episode.num_malformed_in_a_row == 0
    result = episode.finish(model="some/model", patch="diff --git a/x b/x", exit_status="submitted")
    prompt = render(INSTANCE.problem_statement, (), PromptLimits())
    write_episode(tmp_path, result, prompt=prompt, config={"model": {"model_name": "some/model"}})

    prediction = read_predictions(tmp_path / "predictions.jsonl")[0]
    assert (prediction.instance_id, prediction.model_name_or_path) == ("a__b-1", "some/model")
    assert prediction.model_patch == "diff --git a/x b/x\n"
    document = json.loads((tmp_path / "trajectories" / "a__b-1.traj.json").read_text())
    assert document["trajectory_format"] == "mini-swe-agent-1.1"
    assert document["messages"][-1] == {
        "role": "exit",
        "content": "diff --git a/x b/x\n",
        "extra": {"exit_status": "Submitted", "submission": "diff --git a/x b/x\n"},
    }
    assert document["info"]["exit_status"] == "Submitted"
    assert document["info"]["model_stats"]["api_calls"] == 5
    assert document["info"]["srl_swe"]["num_malformed"] == 1
    assert document["messages"][2]["extra"]["response"] == {"text": "raw one"}

    (tmp_path / "report.json").write_text(json.dumps({"resolved_ids": ["a__b-1"]}))
    (read,) = read_trajectories([tmp_path / "trajectories"], drops=DropCounter())
    assert read.steps == STEPS
    assert (read.instance_id, read.model, read.patch) == ("a__b-1", "some/model", "diff --git a/x b/x\n")
    assert read.problem_statement == INSTANCE.problem_statement
    assert read.resolved is True
