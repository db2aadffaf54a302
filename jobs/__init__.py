"""Entry points for spark-submit and `python -m jobs.NAME`: each reads tables, calls one room, and publishes tables."""
