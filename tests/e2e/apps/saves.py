"""Functions that keep files for their callers."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from glowplug import FunctionCall, Output, function, task_queue

LIGHT = {"cpu": 0.01, "memory": 128, "keep_warm_seconds": 5}


class Picture:
    """As much of a PIL image as `from_pil_image` needs."""

    def save(self, path, format):  # noqa: A002 - as PIL calls it
        Path(path).write_bytes(f"a picture in {format}".encode())


@task_queue(**LIGHT)
def saves(text, size):
    folder = Path(tempfile.mkdtemp())
    (folder / "in").mkdir()
    (folder / "in" / "a.txt").write_text(text)
    (folder / "large.bin").write_bytes(text.encode() * size)
    one = Output(path=folder / "in" / "a.txt").save()
    Output(folder / "large.bin", name="renamed.bin").save()
    Output(folder / "in").save()
    Output.from_pil_image(Picture(), name="picture").save()
    unsaved = Output(path=folder / "large.bin")
    return one, one.public_url(expires=60), one.exists(), unsaved.exists(), one.stat().size


@function(**LIGHT)
async def saves_and_reads(text):
    path = Path(tempfile.mkdtemp()) / "b.txt"
    path.write_text(text)
    output = await Output(path).save.aio()
    again = await Output(path).save.aio()
    assert again.id == output.id
    assert await Output.from_id(output.id).read.aio() == text.encode()
    assert [
        one.id for one in await asyncio.to_thread(list, FunctionCall(output.task_id).outputs())
    ] == [output.id]
    return output


@function(**LIGHT)
def saves_badly(name):
    path = Path(tempfile.mkdtemp()) / "b.txt"
    path.write_text("x")
    Output(path, name=name).save()
