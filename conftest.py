"""Loads the shared fixtures for every test of the repository, whichever distribution it belongs to."""

pytest_plugins = ["tests.brokers.plugin"]
