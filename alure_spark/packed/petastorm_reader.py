"""Packed rows by petastorm, which reads ahead in a thread. The only place that imports it."""

from __future__ import annotations

import re
import warnings
from collections.abc import Generator, Sequence
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ..errors import ConfigError
from .row_groups import Reader, Rows
from .rows import file_column


class PetastormReader(Reader):
    def read(self, order: Sequence[int], columns: Sequence[str]) -> Generator[Rows, None, None]:
        make_batch_reader = require_petastorm()
        if not len(order):
            return
        # Files come in the order given, if one worker reads them: with more, petastorm hands out row groups out of turn. It is to
        # read for ever: asked for one epoch, its pool can take the last row groups for read before they are, and loses them.
        # It cuts a URL at '#' and '?', and decodes none: it is given a link of a plain name to each bucket.
        with TemporaryDirectory(prefix="alure-") as links:
            for group in set(order):
                Path(links, str(group)).symlink_to(self.files[group])
            reader = make_batch_reader(
                [f"file://{links}/{group}" for group in order],
                schema_fields=[re.escape(file_column(name)) + "$" for name in columns],
                shuffle_row_groups=False,
                num_epochs=None,
                workers_count=1,
                results_queue_size=1,
            )
            try:
                for rows in islice(reader, len(order)):
                    yield {name: getattr(rows, file_column(name)) for name in columns}
            finally:  # not `with reader`: its exit prints to stdout
                reader.stop()
                reader.join()


def require_petastorm() -> Any:
    """petastorm's make_batch_reader. Raises ConfigError where it cannot be imported."""
    try:
        from petastorm import make_batch_reader
    except (ImportError, AttributeError) as error:  # AttributeError: pyarrow is too new for it
        raise ConfigError(
            f"training.reader is 'petastorm', which cannot be imported here ({error}): pip install 'alure_spark[petastorm]', "
            "or set training.reader=pyarrow"
        ) from error
    # It lives on pyarrow's old file systems and datasets, and says so for each row group, in its own threads.
    warnings.filterwarnings("ignore", category=FutureWarning, module="petastorm")
    return make_batch_reader
