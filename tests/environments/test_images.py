"""Images of source distributions: what they hold, what they hide, and that one request builds them once."""

import hashlib
import secrets
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from srl_swe.environments.container import Container
from srl_swe.environments.downloads import file_lock, sdist_file
from srl_swe.environments.engine import Engine
from srl_swe.environments.image_eviction import ImageEviction
from srl_swe.environments.image_ledger import ImageLedger
from srl_swe.environments.image_pulls import DEFAULT_PULLS
from srl_swe.environments.images import PARENT_LABEL, ensure_image
from srl_swe.environments.instances import instance_from_row
from srl_swe.environments.preparation import ensure_prepared
from srl_swe.environments.registry import Registries
from srl_swe.environments.task_images import ImageSizes, TaskImage
from srl_swe.errors import ImageError
from srl_swe.types import InstanceEnvironment, SdistRecipe

Row = dict[str, Any]


@pytest.fixture
def recipe(tiny_row: Row) -> SdistRecipe:
    recipe = instance_from_row(tiny_row, where="").environment.recipe
    assert recipe is not None
    return recipe


@pytest.fixture
def only_this_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """pip configured for one index in a folder and nothing else; an empty cache."""
    monkeypatch.setenv("SRL_SWE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "PIP_NO_INDEX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_INDEX_URL", (tmp_path / "simple").as_uri())
    return tmp_path / "simple"


def _serve(index: Path, sdist: Path) -> None:
    (index / "tinycalc").mkdir(parents=True)
    (index / "tinycalc" / "index.html").write_text(
        f'<a href="../../{sdist.name}.metadata">x</a><a href="../../files/{sdist.name}#sha256=0">x</a>'
    )
    (index.parent / "files").mkdir()
    (index.parent / "files" / sdist.name).write_bytes(sdist.read_bytes())


def test_a_sdist_comes_from_the_index_pip_is_set_to(
    only_this_index: Path, tiny_sdist: Path, recipe: SdistRecipe
) -> None:
    _serve(only_this_index, tiny_sdist)
    assert sdist_file(recipe).read_bytes() == tiny_sdist.read_bytes()
    (only_this_index.parent / "files" / tiny_sdist.name).unlink()
    assert sdist_file(recipe).read_bytes() == tiny_sdist.read_bytes()  # the cache serves it now


def test_a_sdist_comes_from_find_links_without_an_index(
    only_this_index: Path, tiny_sdist: Path, recipe: SdistRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tiny_sdist.parent))
    assert sdist_file(recipe).name == tiny_sdist.name


def test_a_sdist_that_differs_is_refused_and_not_kept(
    only_this_index: Path, tiny_sdist: Path, recipe: SdistRecipe
) -> None:
    _serve(only_this_index, tiny_sdist)
    found = hashlib.sha256(b"other").hexdigest()
    (only_this_index.parent / "files" / tiny_sdist.name).write_bytes(b"other")
    with pytest.raises(ImageError, match=f"sha256 is {found}"):
        sdist_file(recipe)
    assert not [path for path in (only_this_index.parent / "cache" / "sdists").rglob("*") if path.is_file()]


def test_a_missing_sdist_names_what_was_tried_and_hides_the_password(
    only_this_index: Path, recipe: SdistRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://someone:secret@127.0.0.1:9/simple")
    with pytest.raises(ImageError, match=r"tinycalc-1\.0\.tar\.gz.*127\.0\.0\.1:9/simple/tinycalc/.*by hand") as caught:
        sdist_file(recipe)
    assert "secret" not in str(caught.value)


def test_a_lock_excludes_other_threads(build_cache: Path) -> None:
    inside, most = 0, 0
    guard = threading.Lock()

    def enter(_: int) -> None:
        nonlocal inside, most
        with file_lock("a/b:c"):
            with guard:
                inside += 1
                most = max(most, inside)
            threading.Event().wait(0.01)
            with guard:
                inside -= 1

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(enter, range(8)))
    assert most == 1


@pytest.mark.docker
def test_the_image_holds_the_bug_as_one_commit_and_not_its_patch(build_engine: Engine, tiny_row: Row) -> None:
    instance = instance_from_row(tiny_row, where="")
    image = ensure_image(build_engine, instance.environment)
    assert image == instance.environment.image
    with Container.start(build_engine, image, workdir="/testbed") as container:

        def says(command: str) -> str:
            result = container.execute(["bash", "-lc", command])
            assert result.exit_code == 0, result.output
            return result.output.strip()

        assert says("git log --all --format='%an %ad %s' --date=short") == "srl-swe 2000-01-01 base"
        assert says("git rev-list --all --count") == "1"
        assert says("git status --porcelain") == ""
        assert says("git ls-files") == "\n".join(
            [".gitignore", "PKG-INFO", "src/tinycalc/__init__.py", "tests/conftest.py"]
        )
        assert says("cat src/tinycalc/__init__.py").count("a - b") == 1
        assert says("python -c 'import tinycalc; print(tinycalc.add(2, 3), tinycalc.__file__)'").startswith(
            "-1 /testbed"
        )
        assert says("git status --porcelain") == ""  # bytecode of the import above is ignored
        assert says("ls -d /srl_build 2>/dev/null; find / -xdev -name '*.patch' -newer /etc/profile.d/srl_swe.sh") == ""
        assert (
            says("cd / && git -C /testbed unpack-file HEAD:tests/test_tinycalc.py 2>/dev/null || echo gone") == "gone"
        )


@pytest.mark.docker
def test_many_that_ask_at_once_get_one_image(
    build_engine: Engine, tiny_row: Row, diff: Callable[[str, str, str], str]
) -> None:
    row = {**tiny_row, "bug_patch": tiny_row["bug_patch"] + diff("README", "", "other\n")}
    environment = instance_from_row(row, where="").environment
    with ThreadPoolExecutor(4) as pool:
        names = set(pool.map(lambda _: ensure_image(build_engine, environment), range(4)))
    assert names == {environment.image}
    image = build_engine.client.api.inspect_image(environment.image)
    package = build_engine.client.api.inspect_image(instance_from_row(row, where="").tests.restore_image)
    siblings = build_engine.client.api.images(filters={"label": f"{PARENT_LABEL}={package['Id']}"}, all=False)
    assert image["Config"]["Labels"][PARENT_LABEL] == package["Id"]
    assert [sibling["RepoTags"] for sibling in siblings].count([environment.image]) == 1
    assert not [sibling for sibling in siblings if sibling["RepoTags"] in (None, ["<none>:<none>"])]


@pytest.mark.docker
def test_a_patch_that_does_not_apply_fails_the_build_with_its_output(build_engine: Engine, tiny_row: Row) -> None:
    row = {**tiny_row, "bug_patch": tiny_row["patch"]}
    api = build_engine.client.api
    ensure_image(build_engine, instance_from_row(tiny_row, where="").environment)
    before = {image["Id"] for image in api.images(filters={"dangling": True})}
    with pytest.raises(ImageError, match=r"(?s)building srl-swe/instance:.*patch does not apply"):
        ensure_image(build_engine, instance_from_row(row, where="").environment)
    assert {image["Id"] for image in api.images(filters={"dangling": True})} <= before


@pytest.mark.docker
def test_an_image_that_nobody_has_says_what_to_do(build_engine: Engine) -> None:
    environment = InstanceEnvironment(image="localhost:9/srl-swe/none:1")
    with pytest.raises(ImageError, match=r"docker pull localhost:9/srl-swe/none:1.*docker load"):
        ensure_image(build_engine, environment)


@pytest.mark.docker
def test_pins_without_a_wheel_are_named(build_engine: Engine, tiny_row: Row) -> None:
    environment = instance_from_row({**tiny_row, "pip_requirements": ["pytest==0.0.0.1"]}, where="").environment
    with pytest.raises(ImageError, match=r"pytest==0\.0\.0\.1"):
        ensure_image(build_engine, environment)


@pytest.mark.docker
def test_a_missing_base_image_says_how_to_make_it(
    build_engine: Engine, tiny_row: Row, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("srl_swe.environments.images.BASE_IMAGE", "srl-swe/base:none")
    environment = instance_from_row(tiny_row, where="").environment
    assert environment.recipe is not None
    environment = replace(environment, recipe=replace(environment.recipe, install_command="true"))
    with pytest.raises(ImageError, match="make setup"):
        ensure_image(build_engine, environment)


@pytest.mark.docker
def test_what_is_built_goes_only_when_it_can_be_built_again(
    build_engine: Engine,
    tiny_row: Row,
    diff: Callable[[str, str, str], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A package image that no other run of these tests uses, made quickly.
    row = {**tiny_row, "pip_requirements": [], "install_cmd": f"true {secrets.token_hex(4)}"}
    sibling_row = {**row, "instance_id": "sibling", "bug_patch": row["bug_patch"] + diff("README", "", "other\n")}
    instance, sibling = (instance_from_row(each, where="").environment for each in (row, sibling_row))
    image, sibling_image = (
        TaskImage(environment=environment, instance_ids=(), repo="") for environment in (instance, sibling)
    )
    ledger = ImageLedger(build_engine.identity)
    eviction = ImageEviction(build_engine, ledger, DEFAULT_PULLS, Registries())
    for environment in (instance, sibling):
        ensure_image(build_engine, environment)
    prepared = ensure_prepared(build_engine, instance, "1000:1000").name
    size = ImageSizes(build_engine, ledger, DEFAULT_PULLS, registries=None).here(image)
    assert size is not None
    assert {layer.key for layer in build_engine.image_layers(prepared)} <= {layer.key for layer in size.layers}
    with Container.start(build_engine, prepared):
        kept = eviction.evict(image)
        assert (kept.removed, kept.why_not, kept.for_now) == (False, "a container uses it", True)
    with monkeypatch.context() as patch:
        patch.setenv("SRL_SWE_CACHE", str(tmp_path))
        assert "its files are not in the cache" in eviction.evict(image).why_not
    assert eviction.evict(image).removed
    # The other instance stands on the package image.
    assert [build_engine.find_image(name) is not None for name in (*image.names, prepared)] == [False, True, False]
    assert ensure_image(build_engine, instance) == image.name
    assert eviction.evict(image).removed
    assert eviction.evict(sibling_image).removed
    assert build_engine.find_image(image.names[1]) is None
