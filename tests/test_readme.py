"""What the README says exists, exists."""

import re
from pathlib import Path

import pytest

from srl_swe.cli.main import COMMANDS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")


def test_the_tree_names_every_module() -> None:
    missing = []
    for folder in (
        "srl_swe/pages",
        "srl_swe/training",
        "srl_swe/evaluation",
        "srl_swe/curation",
        "srl_swe/demo",
        "environments",
        "environments/rows",
        "trajectories",
    ):
        for path in (ROOT / folder).glob("*.py"):
            if path.name != "__init__.py" and not re.search(rf"(?<![\w-]){re.escape(path.name)}", README):
                missing.append(f"{folder}/{path.name}")
    assert not missing


@pytest.mark.parametrize("page", ["README.md", *(str(p.relative_to(ROOT)) for p in (ROOT / "docs").glob("*.md"))])
def test_every_command_and_option_in_the_pages_exists(page: str) -> None:
    text = (ROOT / page).read_text("utf-8").replace("\\\n", " ")
    code = {path.stem: path.read_text("utf-8") for path in (ROOT / "srl_swe" / "cli").glob("*.py")}
    known = "".join(code.values()) + "".join(
        path.read_text("utf-8") for path in (ROOT / "srl_swe").rglob("*.py") if not path.is_symlink()
    )
    for line in re.findall(r"srl-swe (\w+[^\n`#]*)", text):
        words = line.split()
        if words[0] in ("COMMAND",):
            continue
        assert words[0] in COMMANDS or words[0].startswith("["), line
        for option in re.findall(r"--([a-z-]+)", line):
            field = option.removeprefix("no-").replace("-", "_")
            assert option in ("help", "version") or re.search(rf"\b{field}\b", known), f"{page}: --{option}"


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(((?!http)[^)#]+)\)", README):
        assert (ROOT / target).exists(), target
