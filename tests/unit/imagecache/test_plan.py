"""What can be built, for which host, and what each step is called."""

from __future__ import annotations

import msgspec
import pytest
from glowplug_contracts.errors import RejectedError
from glowplug_contracts.ids import Digest, WorkspaceId
from glowplug_contracts.messages.deployment import ImageSpec, ImageStep, SecretRef
from glowplug_imagecache.plan import (
    Offer,
    Target,
    check_spec,
    choose_target,
    describe,
    place_in_layer,
    plan_build,
)

HERE = Target(host="debian", python_version="3.11")
MINE = WorkspaceId("mine")
BLOB = Digest("0" * 64)


def pip(*lines: str) -> ImageStep:
    return ImageStep(kind="pip", args=lines)


def run(command: str) -> ImageStep:
    return ImageStep(kind="run", args=(command,))


def chains(*steps: ImageStep, target: Target = HERE, workspace: WorkspaceId = MINE, **env: str):
    plan = plan_build(ImageSpec(steps=steps, env=env), workspace, target)
    return [step.chain for step in plan.steps]


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        (ImageSpec(credentials="login"), "leave them out"),
        (ImageSpec(steps=(ImageStep(kind="apt", args=("curl",)),)), "OCI bases"),
        (ImageSpec(base="debian:12", steps=(ImageStep(kind="apt"),)), "names of packages"),
        (ImageSpec(base="debian:12", steps=(ImageStep(kind="apt", args=("-y",)),)), "no name of"),
        (ImageSpec(base="debian:12", steps=(ImageStep(kind="apt", args=("a b",)),)), "no name of"),
        (ImageSpec(steps=(ImageStep(kind="system_packages", args=("curl",)),)), "can't be done"),
        (ImageSpec(steps=(pip(),)), "requirement lines"),
        (ImageSpec(steps=(pip("a", " "),)), "requirement lines"),
        (ImageSpec(steps=(ImageStep(kind="run", args=("a", "b")),)), "one command"),
        (ImageSpec(steps=(run(" "),)), "one command"),
        (ImageSpec(steps=(ImageStep(kind="file", args=("a",)),)), "the blob"),
        (ImageSpec(steps=(ImageStep(kind="file", args=("/etc/x",), blob=BLOB),)), "OCI bases"),
        (ImageSpec(steps=(ImageStep(kind="file", args=("../x",), blob=BLOB),)), "outside"),
        (ImageSpec(steps=(run("a\0b"),)), "zero byte"),
        (ImageSpec(steps=(run("true"),) * 101), "101 steps"),
    ],
)
def test_refuses_what_can_not_be_built_and_says_what_can(spec: ImageSpec, says: str) -> None:
    with pytest.raises(RejectedError, match=says) as caught:
        check_spec(spec)
    assert caught.value.code == "image.unsupported"


def test_takes_what_the_host_base_can_do() -> None:
    check_spec(
        ImageSpec(
            steps=(pip("a", "b>=1"), run("make"), ImageStep(kind="file", args=("x",), blob=BLOB))
        )
    )


@pytest.mark.parametrize("path", ["a/b", "/layer/a/b", "a/b/"])
def test_a_files_place_is_relative_to_the_layer(path: str) -> None:
    assert place_in_layer(path) == "a/b"


def test_builds_for_the_host_that_most_workers_have() -> None:
    offers = [
        Offer(host="debian", pythons=("3.11", "3.12")),
        Offer(host="ubuntu", pythons=("3.12",)),
        Offer(host="ubuntu", pythons=("3.12", "3.11")),
    ]
    assert choose_target(ImageSpec(), offers) == Target(host="ubuntu", python_version="3.12")
    assert choose_target(ImageSpec(python_version="3.11"), offers[:2]) == HERE


def test_a_python_that_no_worker_has_is_refused_with_those_there_are() -> None:
    offers = [Offer(host="a", pythons=("3.11", "3.9")), Offer(host="b", pythons=("3.10",))]
    with pytest.raises(RejectedError, match=r"'3\.13' is on no live worker; there is 3\.9, 3\.10"):
        choose_target(ImageSpec(python_version="3.13"), offers)


def test_equal_chains_have_equal_names_and_share_their_beginning() -> None:
    one, two = chains(pip("a"), run("x")), chains(pip("a"), run("y"))
    assert one == chains(pip("a"), run("x"))
    assert one[0] == two[0]
    assert one[1] != two[1]


def test_whatever_a_step_depends_on_changes_its_name() -> None:
    base = chains(run("x"))
    others = [
        chains(run("x"), target=Target(host="ubuntu", python_version="3.11")),
        chains(run("x"), target=Target(host="debian", python_version="3.12")),
        chains(run("x"), workspace=WorkspaceId("theirs")),
        chains(run("x"), A="1"),
        chains(ImageStep(kind="pip", args=("x",))),
        chains(run("y"), run("x"))[1:],
    ]
    names = [base, *others]
    assert len({name for (name,) in names}) == len(names)


def test_a_long_step_is_described_in_one_bounded_line() -> None:
    text = describe(run("line one\nline two" + "x" * 500))
    assert text.startswith("run line one line two")
    assert len(text) == 200


def test_a_base_that_is_no_name_of_an_image_is_refused() -> None:
    with pytest.raises(RejectedError, match="tags are letters") as caught:
        check_spec(ImageSpec(base="debian:12:3"))
    assert caught.value.code == "registry.bad_reference"


def test_an_image_of_a_registry_is_for_the_machine_that_most_workers_are() -> None:
    hosts = ("a/x86_64", "b/aarch64", "c/aarch64")
    offers = [Offer(host=host, pythons=("3.11",)) for host in hosts]
    target = choose_target(ImageSpec(base="debian", python_version="3.99"), offers)
    assert target == Target(platform="linux/arm64")


def test_what_is_pulled_is_the_first_step_and_called_by_its_digest() -> None:
    spec = ImageSpec(base="debian", steps=(ImageStep(kind="file", args=("a",), blob=BLOB),))
    plans = [
        plan_build(spec, WorkspaceId("default"), Target(platform="linux/amd64", reference=name))
        for name in ("debian@sha256:1", "debian@sha256:1", "debian@sha256:2")
    ]
    assert [step.spec.kind for step in plans[0].steps] == ["pull", "file"]
    assert plans[0].tip == plans[1].tip != plans[2].tip


def test_a_step_is_another_one_with_other_values_of_its_secrets() -> None:
    ref = SecretRef(name="token")
    fetch = ImageStep(kind="run", args=("fetch",), secrets=(ref,))
    spec = ImageSpec(steps=(run("before"), fetch, run("after")))

    def named(spec: ImageSpec, stamp: str) -> list[Digest]:
        plan = plan_build(spec, MINE, HERE, {"token": stamp})
        return [step.chain for step in plan.steps]

    first, again, changed = (named(spec, stamp) for stamp in ("1", "1", "2"))
    assert first == again
    assert [a == b for a, b in zip(first, changed, strict=True)] == [True, False, False]
    without = ImageSpec(steps=(run("before"), run("fetch"), run("after")))
    assert named(without, "1")[1] != first[1]
    with pytest.raises(RejectedError, match="no command that gets secrets"):
        check_spec(
            ImageSpec(steps=(ImageStep(kind="file", args=("x",), blob=BLOB, secrets=(ref,)),))
        )


def test_a_step_that_is_forced_is_made_again_with_those_after_it_under_the_same_names() -> None:
    forced = msgspec.structs.replace(run("date"), force=True)
    plain = ImageSpec(steps=(run("before"), run("date"), run("after")))
    again = ImageSpec(steps=(run("before"), forced, run("after")))
    first, second = (plan_build(spec, MINE, HERE) for spec in (plain, again))
    assert [step.chain for step in first.steps] == [step.chain for step in second.steps]
    assert (first.reusable, second.reusable) == (first.steps, second.steps[:1])
    whole = msgspec.structs.replace(plain, force=True)
    assert plan_build(whole, MINE, HERE).reusable == ()
