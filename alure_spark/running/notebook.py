"""What a notebook is given from outside."""

from __future__ import annotations

import os
from typing import Any


def parameter(name: str, default: str, dbutils: Any = None) -> str:
    """A notebook's parameter: a widget on Databricks, else the environment variable ALURE_<NAME>, else the default."""
    if dbutils is not None:
        dbutils.widgets.text(name, default)
        return str(dbutils.widgets.get(name))
    return os.environ.get(f"ALURE_{name.upper()}", default)
