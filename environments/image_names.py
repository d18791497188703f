"""Names of the images that are built here: a hash of everything that decides their content.

Needs no engine, so that reading instances stays light. Leaves out building (`images.py`).
"""

import hashlib
import importlib.resources
import json
from collections.abc import Mapping
from dataclasses import asdict
from functools import cache
from typing import Any

from srl_swe.types import DerivedRecipe, InstanceEnvironment, SdistRecipe

BASE_IMAGE = "srl-swe/base:bookworm"
"""Made by docker/make-base-image."""


def package_image_name(recipe: SdistRecipe, workdir: str) -> str:
    """Return the name of the image that holds a recipe's pristine tree, the same on every machine."""
    fields = {**asdict(recipe), "bug_patch": "", "hidden_paths": ()}
    name = recipe.package.lower().replace(".", "-").replace("_", "-")
    return f"srl-swe/sdist-{name}:{_digest(fields, workdir, build_script('build-package'))}"


def instance_image_name(recipe: SdistRecipe, workdir: str) -> str:
    """Return the name of the image that an agent starts from, the same on every machine."""
    scripts = build_script("build-package") + build_script("build-instance")
    return f"srl-swe/instance:{_digest(asdict(recipe), workdir, scripts)}"


def derived_image_name(recipe: DerivedRecipe, workdir: str) -> str:
    """Return the name of the image that an agent starts from, the same on every machine."""
    return f"srl-swe/derived:{_digest(asdict(recipe), workdir, build_script('build-derived'))}"


def parent_image_name(environment: InstanceEnvironment) -> str | None:
    """Return the name of the image that an environment's is built on here; None where that is published as it is."""
    match environment.recipe:
        case SdistRecipe() as recipe:
            return package_image_name(recipe, environment.workdir)
        case DerivedRecipe(parent=parent):
            return parent
        case None:
            return None


def published_image_name(environment: InstanceEnvironment) -> str | None:
    """Return the name of the published image that an environment's is, or is built on; None where all is built here."""
    match environment.recipe:
        case None:
            return environment.image
        case DerivedRecipe(parent=parent):
            return parent
        case SdistRecipe():
            return None


def _digest(fields: Mapping[str, Any], workdir: str, text: str) -> str:
    hashed = json.dumps([fields, workdir, BASE_IMAGE, text], sort_keys=True)
    return hashlib.sha256(hashed.encode()).hexdigest()[:12]


@cache
def build_script(name: str) -> str:
    """Return the text of the build script docker/<name>."""
    return (importlib.resources.files("srl_swe") / "docker" / name).read_text(encoding="utf-8")
