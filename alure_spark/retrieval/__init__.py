"""User edges, engagements and ads in; ad candidates and their judgement out (ALURE, sections 4 and 5)."""
