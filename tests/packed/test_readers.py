"""Row groups in the order they are asked for, without Spark."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from alure_spark.errors import DataError
from alure_spark.packed.readers import READERS, open_reader


@pytest.mark.parametrize("kind", READERS)
def test_a_reader_loses_and_swaps_no_row_group(kind, tmp_path):
    """Tiny files, many times: petastorm's own end of an epoch loses some in a quarter of the runs (a race in its pool)."""
    for number in range(40):
        (tmp_path / f"bucket={number}").mkdir()
        pq.write_table(pa.table({"user_id": [str(number).encode()]}), tmp_path / f"bucket={number}" / "x.parquet")
    reader = open_reader(kind, str(tmp_path))
    for repeat in range(20):
        asked = np.random.default_rng(repeat).permutation(40)[repeat % 3 :].tolist()
        assert [int(rows["user_id"][0]) for rows in reader.read(asked, ["user_id"])] == asked


def test_a_bucket_of_two_row_groups_is_refused(tmp_path):
    (tmp_path / "bucket=0").mkdir()
    pq.write_table(pa.table({"user_id": [b"a", b"b"]}), tmp_path / "bucket=0" / "x.parquet", row_group_size=1)
    with pytest.raises(DataError, match="not one file of one row group: lower training.export_rows"):
        open_reader("pyarrow", str(tmp_path))
