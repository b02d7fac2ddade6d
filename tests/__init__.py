"""Tests that cross distributions, and what the tests of every distribution share."""
