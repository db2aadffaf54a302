"""Chaos: jobs that write are killed at random moments, and nothing may be lost or doubled. `python -m tests.chaos` runs it all."""
