"""Runs that kill servers and consumers many times: too long for the tests, and reported in `reports` beside this.

    nox -s soak                       every provider, every run; writes the reports
    nox -s soak -- redis              one provider
    nox -s soak -- redis SIGTERM      its runs whose name contains this; writes nothing

A provider is one module `<name>.py` with a `Ground` (see `ground.py`) under the name `GROUND`: where its server is, how
a client is configured, and what is stored. The runs are the same for all of them (`runs.py`); what only one of them can
be asked stands in its `GROUND.more()`. `PROVIDERS` below lists them.
"""

PROVIDERS = ("redis",)
