"""What a registry says of an image, and names taken apart."""

import time
import urllib.parse

import pytest
from docker.auth import INDEX_NAME, INDEX_URL

from srl_swe.environments.byte_counts import parse_bytes
from srl_swe.environments.image_references import ImageReference, canonical, checked_mirror
from srl_swe.environments.registry import Registries
from srl_swe.errors import ConfigError, ImageError, PullThrottledError
from tests.environments.local_registry import digest_of, layer, local_registry

HUB = urllib.parse.urlsplit(INDEX_URL).hostname


def test_layers_and_their_sizes_come_from_the_manifest() -> None:
    low, high = layer("low", 5000, is_packed=False), layer("high", 3000)
    with local_registry() as registry:
        name = registry.put("a/b", [low, high])
        manifest = registry.manifests["a/b:1"]
        found = Registries().find(name, architecture="x86_64")
        assert found.digest == digest_of(manifest)
        assert [each.diff_id for each in found.layers] == [low.digest, high.digest]
        assert [each.packed for each in found.layers] == [False, True]
        assert found.layers[0].size_bytes == len(low.tar)
        assert Registries().find(f"{registry.host}/a/b@{found.digest}", architecture="x86_64") == found
        assert Registries().serves(name, found.digest)
        assert not Registries().serves(name, digest_of(b"other"))
        registry.manifests["a/b:1"] = manifest + b" "
        assert not Registries().serves(name, found.digest)


def test_a_token_is_fetched_where_one_is_asked_for() -> None:
    with local_registry() as registry:
        name = registry.put("a/b", [layer("l", 10)])
        registry.token = "secret"
        registries = Registries()
        found = registries.find(name, architecture="x86_64")
        assert registries.serves(name, found.digest)
        asked = [request for request in registry.requests.elements() if "/token?" in request]
        assert asked == ["GET /token?service=here&scope=repository%3Aa%2Fb%3Apull"]


def test_an_index_leads_to_the_image_of_the_machine() -> None:
    with local_registry() as registry:
        low = layer("low", 10)
        registry.put("a/b", [low], tag="one")
        registry.put("a/b", [low, layer("high", 20)], tag="two")
        name = registry.put_index("a/b", "both", amd64="one", arm64="two")
        one, two = (Registries().find(name, architecture=machine) for machine in ("x86_64", "aarch64"))
        assert (len(one.layers), len(two.layers)) == (1, 2)
        # Engines know the image by the digest of the index.
        assert one.digest == two.digest == digest_of(registry.manifests["a/b:both"])
        with pytest.raises(ImageError, match="for amd64, arm64, not for linux/riscv64"):
            Registries().find(name, architecture="riscv64")


def test_refusals_are_told_apart() -> None:
    with local_registry() as registry:
        name = registry.put("a/b", [layer("l", 10)])
        with pytest.raises(ImageError, match="answered 404"):
            Registries().find(f"{registry.host}/a/none:1", architecture="x86_64")
        registry.throttled_until, registry.retry_after = time.monotonic() + 60, "7"
        with pytest.raises(PullThrottledError) as caught:
            Registries().find(name, architecture="x86_64")
        assert caught.value.retry_after_s == 7
        assert Registries().retry_after_s(name) == 7
        registry.throttled_until = 0
        assert Registries().retry_after_s(name) is None
        registry.blobs = dict.fromkeys(registry.blobs, b"{}")
        with pytest.raises(ImageError, match="something else than sha256:"):
            Registries().find(name, architecture="x86_64")
    with pytest.raises(ImageError, match="does not answer"):
        Registries().find(name, architecture="x86_64")


@pytest.mark.parametrize(
    ("name", "host", "path", "version"),
    [
        ("debian", HUB, "library/debian", "latest"),
        ("swebench/x.y_1776_z:v2", HUB, "swebench/x.y_1776_z", "v2"),
        (f"{INDEX_NAME}/swebench/x", HUB, "swebench/x", "latest"),
        ("localhost:5000/a/b", "localhost:5000", "a/b", "latest"),
        (f"r.example.org/a@sha256:{'0' * 64}", "r.example.org", "a", f"sha256:{'0' * 64}"),
    ],
)
def test_names_mean_what_they_mean_to_docker(name: str, host: str, path: str, version: str) -> None:
    reference = ImageReference.parse(name)
    assert (reference.host, reference.path, reference.version) == (host, path, version)


def test_a_mirror_has_everything_under_its_prefix() -> None:
    assert ImageReference.parse("debian:12").on_mirror("m.example.org/hub") == "m.example.org/hub/library/debian:12"
    assert canonical("localhost/srl-swe/x:1") == canonical("srl-swe/x:1") == f"{INDEX_NAME}/srl-swe/x:1"
    assert checked_mirror("m.example.org:5000/hub/") == "m.example.org:5000/hub"
    for wrong in ("https://m.example.org", "hub", "m.example.org/Hub", ""):
        with pytest.raises(ConfigError, match="HOST"):
            checked_mirror(wrong)
    with pytest.raises(ImageError, match="64 hexadecimal digits"):
        ImageReference.parse("a/b@sha256:12")


def test_sizes_as_people_write_them() -> None:
    assert [parse_bytes(text, what="x") for text in ("60GB", "1.5 tb", "2GiB", "3k", "17", "5B")] == [
        60 * 10**9, 1_500_000_000_000, 2 << 30, 3000, 17, 5
    ]  # fmt: skip
    for wrong in ("", "0", "-1GB", "GB", "1XB", "0.1B"):
        with pytest.raises(ConfigError, match="60GB"):
            parse_bytes(wrong, what="disk_budget")
