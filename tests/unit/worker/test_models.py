"""Which version of a model a container gets."""

from __future__ import annotations

import pytest
from glowplug_contracts.errors import RejectedError
from glowplug_contracts.ids import Digest, WorkspaceId
from glowplug_contracts.messages.deployment import ModelMount
from glowplug_contracts.messages.model import ModelRecord, ModelVersion
from glowplug_worker.models import choose_version

NEW, OLD = Digest("a" * 64), Digest("b" * 64)
RECORD = ModelRecord(
    workspace=WorkspaceId("w"),
    name="m",
    versions=(ModelVersion(tree=NEW, source="x"), ModelVersion(tree=OLD, source="x")),
)


def mount(version: str = "") -> ModelMount:
    return ModelMount(name="m", path="/models/m", version=version)


def test_the_latest_unless_one_is_named():
    assert choose_version(RECORD, mount()).tree == NEW
    assert choose_version(RECORD, mount(OLD)).tree == OLD


def test_a_digest_that_the_record_does_not_name_opens_nothing():
    for record, wanted in ((RECORD, "c" * 64), (None, ""), (None, NEW)):
        with pytest.raises(RejectedError) as caught:
            choose_version(record, mount(wanted))
        assert caught.value.code == "model.not_found"
