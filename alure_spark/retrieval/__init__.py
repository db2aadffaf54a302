"""User edges, engagements and ads in; ad candidates and their evaluation out (ALURE, sections 4 and 5)."""
