"""Everybody who waits for a build hears all of it, in order."""

from __future__ import annotations

from glowplug_contracts.messages.image import BuildProgress
from glowplug_imagecache.askers import QUIET_S, Askers


class Post:
    """Keeps what was sent to whom."""

    def __init__(self) -> None:
        self.sent: dict[str, list[tuple[int, str]]] = {}

    async def __call__(self, reply_to: str, progress: BuildProgress) -> None:
        assert progress.build_id == "bld"
        self.sent.setdefault(reply_to, []).append((progress.number, progress.text))


async def test_how_far_something_was_is_not_said_again() -> None:
    post = Post()
    askers = Askers("bld", post)
    await askers.join("early")
    moving = BuildProgress(build_id="", number=0, kind="bytes", text="downloading", bytes_total=9)
    await askers.tell(moving, 0)
    await askers.tell(says("here"), 0)
    await askers.join("late")
    assert post.sent["early"] == [(1, "downloading"), (2, "here")]
    assert post.sent["late"] == [(2, "here")]


def says(text: str, *, done: bool = False) -> BuildProgress:
    kind = "done" if done else "output"
    return BuildProgress(build_id="", number=0, kind=kind, text=text, done=done)


async def test_a_late_comer_hears_what_was_said_with_the_same_numbers() -> None:
    post = Post()
    askers = Askers("bld", post)
    await askers.join("early")
    await askers.tell(says("one"), 0)
    await askers.tell(says("two"), 0)
    await askers.join("late")
    await askers.tell(says("three", done=True), 0)
    assert post.sent["late"] == post.sent["early"] == [(1, "one"), (2, "two"), (3, "three")]
    assert askers.done


async def test_who_asks_again_is_told_each_new_thing_once() -> None:
    post = Post()
    askers = Askers("bld", post)
    await askers.join("same")
    await askers.join("same")
    await askers.tell(says("one"), 0)
    assert post.sent["same"] == [(1, "one")]


async def test_a_quiet_build_says_now_and_then_that_it_lives() -> None:
    post = Post()
    askers = Askers("bld", post)
    await askers.join("early")
    await askers.tell(says("one"), 0)
    await askers.keep_awake(QUIET_S - 0.1)
    assert post.sent["early"] == [(1, "one")]
    await askers.keep_awake(QUIET_S)
    await askers.tell(says("two"), QUIET_S)
    assert post.sent["early"] == [(1, "one"), (2, ""), (3, "two")]
    await askers.join("late")
    assert post.sent["late"] == [(1, "one"), (3, "two")]
