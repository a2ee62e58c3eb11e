"""pip's configuration in uv's words, and what a build container gets to see of this machine."""

from __future__ import annotations

from pathlib import Path

from glowplug_worker.images.kit import choose_cache, local_binds, make_kit, unfit_locals
from glowplug_worker.images.pipconfig import PipConfig, parse_listing, uv_settings

LISTING = """\
:env:.find-links='/from/env'
:env:.disable-pip-version-check='1'
global.find-links='/from/file'
global.index-url='https://user:pass@example.org/simple'
global.extra-index-url='file:///opt/index/simple https://other/simple'
global.trusted-host='one\\ntwo'
install.no-binary='numpy,torch'
install.pre='true'
global.only-binary=':none:'
global.no-index='false'
global.use-feature='fast-deps'
freeze.timeout='10'
download.no-deps='true'
"""


def test_environment_wins_over_install_over_global_and_other_commands_do_not_count() -> None:
    options = parse_listing("global.timeout='1'\ninstall.timeout='2'\nfreeze.timeout='3'\n")
    assert options == {"timeout": "2"}
    assert parse_listing("global.timeout='1'\n:env:.timeout='9'\n") == {"timeout": "9"}


def test_translates_everything_that_uv_has_a_word_for_and_names_the_rest() -> None:
    config = uv_settings(LISTING, {})
    assert config.env == {
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "UV_FIND_LINKS": "/from/env",
        "UV_DEFAULT_INDEX": "https://user:pass@example.org/simple",
        "UV_INDEX": "file:///opt/index/simple https://other/simple",
        "UV_INSECURE_HOST": "one two",
    }
    assert config.flags == (
        "--no-binary-package=numpy",
        "--no-binary-package=torch",
        "--prerelease=allow",
    )
    assert config.ignored == ("use-feature",)


def test_local_paths_are_those_that_a_container_would_need() -> None:
    config = uv_settings(LISTING + "global.cert='/certs/one/ca.pem'\n", {"SSL_CERT_DIR": "/certs"})
    assert config.local == (Path("/from/env"), Path("/opt/index"), Path("/certs"))


def test_several_directories_with_wheels_are_separated_as_uv_reads_them() -> None:
    config = uv_settings("global.find-links='/a\\n~/b https://c'\n", {"HOME": "/home/me"})
    assert config.env["UV_FIND_LINKS"] == "/a,/home/me/b,https://c"
    assert config.local == (Path("/a"), Path("/home/me/b"))


def test_proxies_and_certificates_of_the_machine_are_passed_on_without_any_pip() -> None:
    environ = {"HTTPS_PROXY": "http://p", "SSL_CERT_FILE": "/ca.pem", "HOME": "/h", "SECRET": "x"}
    assert uv_settings("", environ).env == {
        "HTTPS_PROXY": "http://p",
        "SSL_CERT_FILE": "/ca.pem",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
    }


def test_pips_proxy_counts_for_both_kinds_of_address() -> None:
    env = uv_settings("global.proxy='http://p'\n", {}).env
    assert (env["HTTP_PROXY"], env["HTTPS_PROXY"]) == ("http://p", "http://p")


def test_switches_that_are_off_say_nothing() -> None:
    assert uv_settings("global.no-index='0'\ninstall.only-binary=':all:'\n", {}).flags == (
        "--no-build",
    )


def test_never_shows_half_of_the_machine_nor_what_the_base_has(tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    paths = [Path("/"), Path("/home"), Path("/usr/share"), tmp_path / "missing", wheels]
    (bind,) = local_binds(paths)
    assert (bind.source, bind.target, bind.writable) == (wheels, str(wheels), False)
    assert unfit_locals(paths) == ["/", "/home", str(tmp_path / "missing")]


def test_a_build_finds_its_places_with_and_without_mounts(tmp_path: Path) -> None:
    def env(*, mounts: bool) -> dict[str, str]:
        kit = make_kit(
            pip=PipConfig(flags=("--no-index", "--pre")),
            uv_binary=Path("/host/uv"),
            layer=Path("/host/layer"),
            cache=Path("/host/cache"),
            python=Path("/py/bin/python3.11"),
            mounts=mounts,
        )
        assert [bind.target for bind in kit.binds if bind.writable] == [
            "/layer",
            "/glowplug/uv-cache",
        ]
        return kit.env

    inside, outside = env(mounts=True), env(mounts=False)
    assert inside["GLOWPLUG_LAYER"] == "/layer"
    assert outside["GLOWPLUG_LAYER"] == "/host/layer"
    assert outside["UV_CACHE_DIR"] == "/host/cache"
    assert inside["GLOWPLUG_PYTHON"] == outside["GLOWPLUG_PYTHON"] == "/py/bin/python3.11"
    assert inside["GLOWPLUG_UV_FLAGS"] == "--no-index --pre"


def test_one_build_at_a_time_has_the_workspaces_cache() -> None:
    shared, own = Path("/shared"), Path("/own")
    assert choose_cache({}, shared, own, "ctr_1") == shared
    assert choose_cache({shared: "ctr_1"}, shared, own, "ctr_1") == shared
    assert choose_cache({shared: "ctr_1"}, shared, own, "ctr_2") == own
