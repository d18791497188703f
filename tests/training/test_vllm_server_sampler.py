"""The sampler of a vLLM server with a real server, on a tiny model in float32."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from srl_swe.errors import SamplerError, SamplerLostError
from srl_swe.training.engine_folder import EngineFolder
from srl_swe.training.policy import Policy
from srl_swe.training.trainer import train
from srl_swe.training.vllm_server_sampler import VLLMServerSampler

from .run_tiny import tiny_config
from .test_processes import finish, start
from .test_resume import read_metrics
from .tiny import DOMAIN, make_examples, make_model, make_tokenizer, write_model
from .vllm_checks import HEAD_WIDTH, check_logprobs, sample, train_some

pytest.importorskip("vllm", reason="vLLM is not installed: make test-vllm")
pytestmark = pytest.mark.vllm

Server = tuple[str, "subprocess.Popen[bytes]"]
"""Its address and its process."""


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    return Policy.from_pretrained(write_model(tmp_path_factory.mktemp("model"), head_width=HEAD_WIDTH))


@pytest.fixture(scope="module")
def server(policy: Policy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that serves blank weights."""
    folder = tmp_path_factory.mktemp("server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    EngineFolder(folder / "engine", policy)
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder / "engine")]
    command += ["--host", "127.0.0.1"]
    command += ["--port", str(port), "--skip-tokenizer-init", "--logprobs-mode", "processed_logprobs"]
    command += ["--no-enable-chunked-prefill", "--dtype", "float32", "--enforce-eager", "--max-model-len", "200"]
    command += ["--max-num-seqs", "16", "--kv-cache-memory-bytes", "50000000"]
    environment = os.environ | {"VLLM_SERVER_DEV_MODE": "1", "VLLM_NO_USAGE_STATS": "1"}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 400
        while not answers(url):
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail((folder / "log").read_text()[-3000:])
            time.sleep(0.5)
        yield url, process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5):
            return True
    except OSError:
        return False


def test_it_samples_from_the_policy_also_after_training_steps(server: Server, tmp_path: Path) -> None:
    policy = Policy(make_model(head_width=HEAD_WIDTH, vocab_size=32), make_tokenizer(), source="trained")
    sampler = VLLMServerSampler(
        policy, url=server[0], folder=tmp_path / "engine", max_row_tokens=200, concurrent_rollouts=8
    )
    for temperature in (0.0, 0.6, 1.0):
        check_logprobs(policy, sample(sampler, temperature=temperature), temperature)
    first = sample(sampler)
    assert [[c.ids for c in group] for group in sample(sampler)] == [[c.ids for c in group] for group in first]
    train_some(policy, tmp_path)
    with pytest.raises(AssertionError):
        check_logprobs(policy, sample(sampler), 1.0)
    sampler.update_weights(policy)
    check_logprobs(policy, sample(sampler), 1.0)


def test_what_does_not_fit_is_refused_at_the_start(server: Server, tmp_path: Path) -> None:
    larger = Policy(make_model(vocab_size=40, head_width=HEAD_WIDTH), make_tokenizer(), source="larger")
    options = {"url": server[0], "folder": tmp_path / "engine", "concurrent_rollouts": 8}
    with pytest.raises(SamplerError, match=r"the policy has 40 tokens, the model .* fewer\. Serve the policy's own"):
        VLLMServerSampler(larger, max_row_tokens=200, **options)
    with pytest.raises(SamplerError, match=r"rows of 200 tokens, .* may have 300"):
        VLLMServerSampler(larger, max_row_tokens=300, **options)


def test_another_server_or_none_is_refused(policy: Policy, tmp_path: Path) -> None:
    class Plain(BaseHTTPRequestHandler):
        """An OpenAI-compatible server without vLLM's further endpoints, as far as it is asked."""

        def do_GET(self) -> None:
            found = self.path == "/v1/models"
            self.send_response(200 if found else 404)
            self.end_headers()
            self.wfile.write(b'{"data": [{"id": "m"}]}' if found else b"{}")

        def log_message(self, *_: object) -> None:
            pass

    options = {"folder": tmp_path / "engine", "max_row_tokens": 200, "concurrent_rollouts": 8}
    with HTTPServer(("127.0.0.1", 0), Plain) as plain:
        threading.Thread(target=plain.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{plain.server_port}"
        with pytest.raises(SamplerError, match=r"no endpoints for new weights.*VLLM_SERVER_DEV_MODE=1 python -m vllm"):
            VLLMServerSampler(policy, url=url, **options)
        plain.shutdown()
    with pytest.raises(SamplerLostError, match=f"the vLLM server at {url} does not answer: .*refused"):
        VLLMServerSampler(policy, url=url, **options)


def test_two_processes_sample_from_one_server(server: Server, tmp_path: Path) -> None:
    model, run = write_model(tmp_path / "model", head_width=HEAD_WIDTH), tmp_path / "run"
    finish(start(model, run, "run_sharded", "srl", sampler=server[0], num_iterations=4))
    trained = [line for line in read_metrics(run) if "train/loss" in line]
    assert len(trained) > 1
    for line in trained:
        assert line["train/importance_ratio_mean"] == pytest.approx(1, abs=1e-3)


def test_a_run_ends_saved_when_its_server_is_gone(server: Server, tmp_path: Path) -> None:
    url, process = server
    model, run = write_model(tmp_path / "model", head_width=HEAD_WIDTH), tmp_path / "run"

    def end_server() -> None:
        path = run / "metrics.jsonl"
        while not path.exists() or path.read_text().count("\n") < 4:
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)

    threading.Thread(target=end_server, daemon=True).start()
    config = tiny_config(model, run, "srl", sampler=url, num_iterations=1000)
    with pytest.raises(SamplerLostError, match=r"does not answer: .* go on after iteration \d+"):
        train(config, make_examples(20), make_examples(6, prefix="v"), DOMAIN)
    reached = (run / "metrics.jsonl").read_text().count("\n") - 1
    assert f'"iteration": {reached},' in (run / "last" / "trainer_state.json").read_text()
