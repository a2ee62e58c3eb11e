"""The envelope around secrets: what opens it, and what does not."""

from __future__ import annotations

import base64
import os
import stat

import pytest
from glowplug_contracts.errors import InvalidRequestError, RejectedError
from glowplug_gateway.sealing import (
    KEY_BYTES,
    NONCE_BYTES,
    WeakKeyError,
    key_name,
    read_master_key,
    seal,
    unseal,
    unwrap,
    wrap,
)
from glowplug_gateway.secrets import check_values, read_key_file
from glowplug_runtime.failures import StartError

MASTER, KEY = os.urandom(KEY_BYTES), os.urandom(KEY_BYTES)
NONCE = os.urandom(NONCE_BYTES)
WHERE = ("default", "openai", 3)
PLAIN = b'{"KEY":"canary"}'


def test_what_was_sealed_opens_and_shows_nothing():
    sealed = seal(KEY, WHERE, PLAIN, NONCE)
    assert unseal(KEY, WHERE, sealed, NONCE) == PLAIN
    assert b"canary" not in sealed


@pytest.mark.parametrize(
    "where", [("other", "openai", 3), ("default", "other", 3), ("default", "openai", 4)]
)
def test_a_seal_belongs_to_its_workspace_name_and_version(where):
    sealed = seal(KEY, WHERE, PLAIN, NONCE)
    with pytest.raises(RejectedError):
        unseal(KEY, where, sealed, NONCE)


def test_a_changed_byte_another_key_or_nonce_opens_nothing():
    sealed = seal(KEY, WHERE, PLAIN, NONCE)
    for at in (0, len(sealed) - 1):
        changed = bytearray(sealed)
        changed[at] ^= 1
        with pytest.raises(RejectedError):
            unseal(KEY, WHERE, bytes(changed), NONCE)
    with pytest.raises(RejectedError):
        unseal(MASTER, WHERE, sealed, NONCE)
    with pytest.raises(RejectedError):
        unseal(KEY, WHERE, sealed, os.urandom(NONCE_BYTES))


def test_a_workspaces_key_is_unwrapped_by_its_master_for_it_alone():
    wrapped = wrap(MASTER, "default", KEY, NONCE)
    assert unwrap(MASTER, "default", wrapped, NONCE) == KEY
    with pytest.raises(RejectedError, match="another master key"):
        unwrap(KEY, "default", wrapped, NONCE)
    with pytest.raises(RejectedError):
        unwrap(MASTER, "other", wrapped, NONCE)
    assert MASTER.hex() not in key_name(MASTER)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "short",
        "00" * 32,
        "ab" * 32,
        bytes(range(32)).hex(),
        "5f" * 16,
        base64.b64encode(bytes(range(100, 131))).decode(),
        "not hexadecimal and not base64, but long enough to be a key!!!!!",
    ],
)
def test_a_key_that_is_none_is_refused_without_being_shown(text):
    with pytest.raises(WeakKeyError) as refused:
        read_master_key(text)
    assert not text or text not in str(refused.value)


def test_a_random_key_is_read_in_both_spellings():
    assert read_master_key(MASTER.hex() + "\n") == MASTER
    assert read_master_key(base64.b64encode(MASTER).decode()) == MASTER
    assert read_master_key(base64.urlsafe_b64encode(MASTER).decode()) == MASTER


def test_a_key_file_is_ones_own_or_the_gateway_does_not_start(tmp_path):
    file = tmp_path / "key"
    assert read_key_file("") is None
    with pytest.raises(StartError, match="can't be read"):
        read_key_file(str(file))
    file.write_text(MASTER.hex())
    file.chmod(stat.S_IRUSR | stat.S_IRGRP)
    with pytest.raises(StartError, match="chmod 600"):
        read_key_file(str(file))
    file.chmod(0o600)
    assert read_key_file(str(file)) == MASTER
    file.write_text("changeme")
    with pytest.raises(StartError):
        read_key_file(str(file))


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"1A": "x"},
        {"A B": "x"},
        {"A=B": "x"},
        {"": "x"},
        {"GLOWPLUG_TOKEN": "x"},
        {"A": "x\0y"},
        {"A": "canary" * 20_000},
        {f"A{number}": "x" for number in range(101)},
    ],
)
def test_values_that_can_be_no_variables_are_refused_without_being_shown(values):
    with pytest.raises(InvalidRequestError) as refused:
        check_values(values)
    assert "canary" not in str(refused.value) + str(refused.value.details)
