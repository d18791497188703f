"""The guide for authors of agents: its Python runs, block by block, on the tiny instance."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from srl_swe.trajectories.formats import DropCounter, read_trajectories

pytestmark = pytest.mark.docker
ROOT = Path(__file__).parents[2]
IDS = {
    "marshmallow-code__apispec.8b421526.func_basic__hmt9c8x4": "srl-swe__tinycalc-1",
    "marshmallow-code__apispec.8b421526.pr_828": "srl-swe__tinycalc-2",
}
AGENT = "def my_agent(observation):\n    return 'submit'\n"


def test_the_guide_runs(instances_file: Path, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "environment.md").read_text("utf-8")
    for name, tiny in IDS.items():
        page = page.replace(name, tiny)
    blocks = re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    assert len(blocks) >= 6
    (tmp_path / "instances.jsonl").write_bytes(instances_file.read_bytes())
    script = tmp_path / "guide.py"
    script.write_text("\n".join(["import sys", f"sys.path.insert(0, {str(ROOT)!r})", AGENT, *blocks]))
    outcome = subprocess.run(
        [sys.executable, "-W", "error", script], cwd=tmp_path, capture_output=True, text=True, timeout=500, check=False
    )
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stdout.startswith("unresolved 0.0\n") and outcome.stdout.endswith("Submitted unresolved\n")
    (trajectory,) = read_trajectories([tmp_path / "runs" / "mine"], drops=DropCounter())
    assert [step.thought for step in trajectory.steps] == ["First I look around.", "There is nothing to repair."]
    assert (trajectory.model, trajectory.resolved) == ("my agent", False)
