"""User ids of containers: never root's, never twice."""

from __future__ import annotations

import pytest
from glowplug_worker.runtime.uids import RANGES, Uids


def test_two_workers_never_take_the_same_id(tmp_path):
    one, other = Uids(tmp_path), Uids(tmp_path)
    taken = [one.take(), other.take(), one.take(), other.take()]
    assert len(set(taken)) == 4
    assert 0 not in taken
    assert all(any(uid in ids for ids in RANGES) for uid in taken)
    for uids, uid in zip((one, other, one, other), taken, strict=True):
        uids.give_back(uid)


def test_an_id_given_back_is_taken_again(tmp_path):
    uids = Uids(tmp_path)
    uid = uids.take()
    uids.give_back(uid)
    assert uids.take() == uid
    uids.give_back(uid)


def test_an_id_that_is_not_held_cannot_be_given_back(tmp_path):
    with pytest.raises(KeyError):
        Uids(tmp_path).give_back(1234)
