"""A world of users with known traits, for demos and for tests with known ceilings."""
