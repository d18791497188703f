"""NVIDIA NeMo Gym's rows, and the resources server that verifies them with our reward.

Written for nemo-gym 0.7: rows name no agent (`agent_ref` is deprecated there; `gym dataset collate` routes them).
"""

from collections.abc import Mapping

from srl_swe.curation.exports.target import Export, Place, Row, Target
from srl_swe.types import Message, StepExample

SERVER = "srl_swe_step"
_FOLDER = f"resources_servers/{SERVER}"

_GYM_LICENCES = {"MIT": "MIT", "CC-BY-4.0": "Creative Commons Attribution 4.0 International"}
"""Ours -> the words that nemo-gym allows; anything else and mixtures are "TBD"."""

_APP = '''\
"""Verifies one step: the similarity of the command to the expert's, -1 where the format is broken."""

from nemo_gym.base_resources_server import (
    BaseResourcesServerConfig,
    BaseVerifyRequest,
    BaseVerifyResponse,
    SimpleResourcesServer,
)
from srl_swe.rewards import nemo_gym_reward


class StepVerifyRequest(BaseVerifyRequest):
    example_id: str
    expert_action: str


class StepVerifyResponse(BaseVerifyResponse):
    example_id: str
    expert_action: str


class StepResourcesServer(SimpleResourcesServer):
    config: BaseResourcesServerConfig

    async def verify(self, body: StepVerifyRequest) -> StepVerifyResponse:
        reward = nemo_gym_reward(body.response.model_dump(), body.expert_action)
        return StepVerifyResponse(**body.model_dump(), reward=reward)


if __name__ == "__main__":
    StepResourcesServer.run_webserver()
'''

_TASK_DATA = '''\
"""The fields of a row besides the prompt."""

from pydantic import BaseModel, ConfigDict


class TaskData(BaseModel):
    model_config = ConfigDict(extra="allow")

    example_id: str
    instance_id: str
    step_index: int
    expert_action: str
'''

_CONFIG = """\
{server}:
  resources_servers:
    {server}:
      entrypoint: app.py
      domain: coding
      verified: false
      description: The next command of a software-engineering agent, by similarity to the expert's
      value: Improve step-wise decisions of software-engineering agents
{server}_simple_agent:
  responses_api_agents:
    simple_agent:
      entrypoint: app.py
      resources_server:
        type: resources_servers
        name: {server}
      model_server:
        type: responses_api_models
        name: policy_model
      datasets:
{datasets}{server}_environment_server:
  environment_servers:
    legacy_agent:
      entrypoint: app.py
      agent_server:
        type: responses_api_agents
        name: {server}_simple_agent
"""

_DATASET = """\
      - name: {part}
        type: {part}
        jsonl_fpath: {folder}/data/{part}.jsonl
        license: {licence}
"""

_USAGE = f"""\
`{_FOLDER}` is a resources server with its data; `--search-dir` shows this folder to NeMo Gym. srl_swe must be
installed beside nemo-gym: name your copy of it in `{_FOLDER}/requirements.txt`.

```
gym dataset collate --search-dir . --resources-server {SERVER} --model-type vllm_model \\
    --mode train_preparation --output-dir collated
gym env start --search-dir . --resources-server {SERVER} --model-type vllm_model
gym eval run --no-serve --agent {SERVER}_simple_agent --input collated/train.jsonl --output rollouts.jsonl
```

The server's `verify` calls `srl_swe.rewards.nemo_gym_reward`, which gives what `srl-swe train` gives: -1 where the
format is broken, else the similarity of the command to `expert_action`. NeMo Gym's model servers cut `<think>` blocks
out of answers and hand them over as reasoning items; the reward puts them back in front. A think block *behind* the
command therefore counts as well-formed, unless the model server has `uses_reasoning_parser: false`.
"""


def nemo_gym_row(example: StepExample, prompt: list[Message], place: Place) -> Row:
    """Return the row of an example."""
    return {
        "responses_create_params": {"input": prompt},
        "example_id": example.example_id,
        "instance_id": example.instance_id,
        "step_index": example.step_index,
        "expert_action": example.expert_action,
    }


def _usage(export: Export) -> str:
    return _USAGE


def _server_files(export: Export) -> Mapping[str, str]:
    datasets = [
        _DATASET.format(part=part, folder=_FOLDER, licence=_gym_licence(export.licences)) for part in export.num_rows
    ]
    return {
        f"{_FOLDER}/app.py": _APP,
        f"{_FOLDER}/task_data.py": _TASK_DATA,
        f"{_FOLDER}/requirements.txt": "nemo-gym\nsrl-swe\ndifflib-fast\nnumba\n",
        f"{_FOLDER}/configs/{SERVER}.yaml": _CONFIG.format(server=SERVER, datasets="".join(datasets)),
    }


def _gym_licence(licences: Mapping[str, str]) -> str:
    found = {_GYM_LICENCES.get(licence, "TBD") for licence in licences.values()}
    return found.pop() if len(found) == 1 else "TBD"


NEMO_GYM = Target(
    title="NVIDIA NeMo Gym",
    row=nemo_gym_row,
    suffix=".jsonl",
    data_folder=f"{_FOLDER}/data",
    usage=_usage,
    further_files=_server_files,
)
