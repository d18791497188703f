"""The acting model in a vLLM engine of this machine: the same episodes as with transformers, in float32."""

from pathlib import Path

import pytest
from rich.console import Console

from srl_swe.cli.eval.acting import opened_agent
from srl_swe.cli.eval.evaluate import EvalConfig
from srl_swe.environments.engine import Engine
from srl_swe.evaluation.agent_config import AgentConfig
from tests.evaluation.conftest import own_containers
from tests.evaluation.scripted import told_apart

pytest.importorskip("vllm", reason="vLLM is not installed: make test-vllm")
pytestmark = [pytest.mark.vllm, pytest.mark.docker]


def test_the_samplers_act_alike(tmp_path: Path, tiny_engine: Engine) -> None:
    from tests.training.tiny import write_model

    # vLLM's attention on CPUs has no narrower heads.
    model = write_model(tmp_path / "model", head_width=32, max_position_embeddings=4096)
    instances = told_apart(3)
    completions = {}
    for sampler in ("vllm", "transformers"):
        out = tmp_path / sampler
        config = EvalConfig(
            instances=Path("rows.jsonl"),
            model=str(model),
            sampler=sampler,  # type: ignore[arg-type]
            dtype="float32",
            cached_tokens=16_384,
            agent=AgentConfig(max_completion_tokens=12, max_malformed=2),
        )
        with opened_agent(config, instances, out, Console(stderr=True)) as act:
            outcome = act(out, 0)
        assert outcome.invalid == {}
        assert [result.exit_status for result in outcome.episodes] == ["malformed"] * 3
        completions[sampler] = {
            result.trajectory.instance_id: [turn.completion for turn in result.turns] for result in outcome.episodes
        }
        assert not (out / "engine").exists()
    assert all(len(texts) == 2 and all(texts) for texts in completions["vllm"].values())
    assert completions["vllm"] == completions["transformers"]
    assert own_containers(tiny_engine) == set()
