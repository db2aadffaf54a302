"""Ids that a conf names, as the lake writes them. No Spark."""

from __future__ import annotations

import pytest

from alure_spark.errors import ConfigError
from alure_spark.privacy.identity import KEY_VARIABLE, hashed, ids_in_lake

KEY = "k" * 32


def test_ids_of_a_conf_stand_for_the_users_of_the_lake_in_either_form(monkeypatch):
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    of_u1 = hashed("u1", KEY.encode())
    assert ids_in_lake(["u1"], hash_user_ids=False) == {"u1"}
    assert ids_in_lake(["u1"], hash_user_ids=True) == {"u1", of_u1}
    monkeypatch.delenv(KEY_VARIABLE)
    assert ids_in_lake([of_u1], hash_user_ids=True) == {of_u1}, "no key is needed for what is hashed already"
    assert ids_in_lake([], hash_user_ids=True) == set()
    with pytest.raises(ConfigError, match=KEY_VARIABLE):
        ids_in_lake([of_u1, f"{of_u1}\n"], hash_user_ids=True)
