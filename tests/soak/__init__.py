"""Runs that kill servers and consumers many times: too long for the tests, and reported in `report.md` beside this."""
