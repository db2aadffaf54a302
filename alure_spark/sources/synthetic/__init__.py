"""A synthetic world with known truth: `world.canonical` makes the canonical tables, `truth` knows why they look so."""
