"""sdist -> wheel -> clean environment -> the two entry points, without torch."""

import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BASE_INSTALL_LIMIT_BYTES = 80 * 10**6


def call(*command: str | Path, folder: Path) -> str:
    outcome = subprocess.run(
        [str(word) for word in command], cwd=folder, capture_output=True, text=True, timeout=900, check=False
    )
    assert outcome.returncode == 0, outcome.stdout[-2000:] + outcome.stderr[-2000:]
    return outcome.stdout


@pytest.mark.slow
def test_a_clean_environment_gets_both_entry_points(tmp_path: Path) -> None:
    tracked = call("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", folder=ROOT)
    source = tmp_path / "source"
    for name in filter(None, tracked.split("\0")):
        target = source / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_symlink():
            target.symlink_to((ROOT / name).readlink())
        elif (ROOT / name).is_file():
            target.write_bytes((ROOT / name).read_bytes())
            target.chmod((ROOT / name).stat().st_mode)
    call(sys.executable, "-m", "build", "--no-isolation", "--outdir", tmp_path / "dist", folder=source)
    (wheel,) = (tmp_path / "dist").glob("*.whl")

    clean = tmp_path / "clean"
    venv.create(clean, with_pip=True)
    pip = (clean / "bin" / "python", "-m", "pip")
    wheels = tmp_path / "wheels"
    call(*pip, "download", "--quiet", "-c", ROOT / "constraints.txt", "--dest", wheels, wheel, folder=tmp_path)
    # Fetched, not unpacked: numpy, which Gymnasium needs, alone takes 73 MB on the disk.
    fetched = sum(path.stat().st_size for path in wheels.iterdir())
    assert fetched <= BASE_INSTALL_LIMIT_BYTES, f"the base install fetches {fetched / 1e6:.0f} MB"
    call(*pip, "install", "--quiet", "--no-index", "--find-links", wheels, wheel, folder=tmp_path)

    assert call(clean / "bin" / "srl-swe", "--version", folder=tmp_path).startswith("srl-swe 0.")
    package = source / "srl_swe"
    shipped = [str(path.relative_to(package)) for path in package.rglob("*.jinja")]
    assert len(shipped) >= 5
    code = (
        "import srl_swe, gymnasium, importlib.resources as r;"
        "assert 'srl_swe/SWE-v0' in gymnasium.registry;"
        "assert (r.files('srl_swe') / 'docker' / 'edit').is_file() and (r.files('srl_swe') / 'py.typed').is_file();"
        f"missing = [n for n in {shipped!r} if not (r.files('srl_swe') / n).is_file()]; assert not missing, missing;"
        "spec = gymnasium.spec('srl_swe/SWE-v0');"
        "from gymnasium.envs.registration import load_env_creator as load; print(load(spec.entry_point).__name__)"
    )
    assert call(clean / "bin" / "python", "-c", code, folder=tmp_path).strip() == "SWEEnv"
    call(clean / "bin" / "python", "-c", "import importlib.util as u; assert not u.find_spec('torch')", folder=tmp_path)
