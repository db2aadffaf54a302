"""Rows of impressions and of ads -> representations of the user model, as arrays: what workers do (cross_table.py, item_table.py)."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import torch

from ..batches.batch import JaggedBatch, select_users
from ..batches.decode import Jagged, jagged_batch
from ..batches.layout import SHOWN, Layout
from ..batches.vocabulary import ACCOUNT, ITEM
from ..config import InferenceConfig
from ..model.artifact import Artifact
from ..model.files import sha256
from ..model.representations import cross_representations, cross_width, item_representations
from .export import DECIMALS, chunks, jagged

_HELD: dict[tuple[str, ...], RepresentationReader] = {}  # of this worker process: the last model's reader


def worker_reader(artifact: Artifact, layer: str, config: InferenceConfig) -> RepresentationReader:
    """The reader of the model, with its read-out and the conf; loaded when this process sees these for the first time."""
    key = artifact.digest, sha256(artifact.readout), layer, repr(config)
    if key not in _HELD:
        _HELD.clear()
        _HELD[key] = RepresentationReader(artifact, layer, config)
    return _HELD[key]


class RepresentationReader:
    """A user model that is loaded once and reads impressions and ads."""

    def __init__(self, artifact: Artifact, layer: str, config: InferenceConfig) -> None:
        """At most config.max_tokens tokens run at once (a longer user runs alone)."""
        model, self.vocabulary = artifact.model()
        self.dtype = getattr(torch, config.precision)
        self.model, self.spec, self.layer, self.max_tokens = model.to(self.dtype), artifact.spec, layer, config.max_tokens
        self.width = cross_width(self.spec, layer)

    def read(self, rows: pa.RecordBatch, segment: str) -> tuple[np.ndarray, np.ndarray]:
        """(user (M,) int64 places among the rows, representations (M, width)) of users of one segment, in the rows' order.

        rows: shaped as training_examples. Raises DataError on a missing or broken column.
        """
        batch = self._batch(rows, segment)
        assert batch.impressions is not None
        shown = batch.impressions.offsets
        found = torch.zeros(int(shown[-1]), self.width, dtype=self.dtype)
        lengths = torch.stack([batch.sources[source].lengths for source in self.spec.sources]).sum(0)
        known = shown[1:] - shown[:-1]
        for users in chunks(torch.where(known > 0, lengths.clamp(min=1), 0), self.max_tokens):
            made = cross_representations(self.model, select_users(batch, users), self.layer)
            places = torch.cat([torch.arange(int(shown[user]), int(shown[user + 1])) for user in users.tolist()])
            found[places] = made
        return batch.impressions.users().numpy(), found.numpy()

    def _batch(self, rows: pa.RecordBatch, segment: str) -> JaggedBatch:
        layout = self.spec.layout(impressions=True, segment=segment)
        widths = layout.column_widths()
        columns = {name: jagged(rows.column(name), kind, widths.get(name, 1), name) for name, kind in read_kinds(layout).items()}
        shown = columns["time_ms"].offsets
        for name in layout.impression_columns():  # labels, and what only training reads
            columns.setdefault(name, Jagged(shown, np.zeros(shown[-1], np.int64)))
        users = rows.column("user_id").to_pylist()
        as_of_ms = np.zeros(len(users), np.int64)  # an impression says itself when it is
        return jagged_batch(users, [""] * len(users), as_of_ms, columns, layout, self.vocabulary, segment, with_impressions=True)

    def items(self, ads: pa.Array, accounts: pa.Array) -> np.ndarray:
        """(n, d) float32 of ads and their accounts, (n,) int64 hashes or null each."""
        rows = []
        for space, hashes in ((ITEM, ads), (ACCOUNT, accounts)):
            known = hashes.is_valid().to_numpy(zero_copy_only=False)
            rows.append(torch.from_numpy(self.vocabulary.rows(space, hashes.fill_null(0).to_numpy(), known).astype(np.int64)))
        return item_representations(self.model, *rows).numpy().round(DECIMALS).astype(np.float32)


def read_kinds(layout: Layout) -> dict[str, str]:
    """The list columns that are read of rows of training_examples -> kind."""
    shown = layout.impression_columns()
    return layout.columns() | {name: kind for name, kind in shown.items() if name in SHOWN or name.startswith("impression__")}
