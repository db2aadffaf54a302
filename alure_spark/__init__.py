"""Event logs in, user embeddings, user graphs and ad candidates out, on Spark (see README.md and docs/)."""

__version__ = "0.1.0"
