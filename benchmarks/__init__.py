"""What ductape costs, measured: the kernel alone, and every provider beside what a user would pick instead.

`python -m benchmarks help` says what can be asked for. A newcomer reads::

    providers/__init__   what a provider's module says: only what its broker knows
    contestants, cases   who does the work; what is measured (throughput, latency, resting)
    child, run           one measurement, in a process of its own
    runner, suites       repeats, interleaved; which of them belong to a form
    kernel, counts       the kernel on an adapter that does nothing (null); what does not depend on the machine
    results, report      figures and their file; tables, goals, what changed
    page, plots          the documentation's page, made of the committed results
"""
