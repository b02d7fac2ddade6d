"""What ductape costs, measured: the kernel alone, and every provider beside what a user would pick instead.

`python -m benchmarks kernel` · `redis` · `idle` · `compare A.json B.json`; `quick` among the words repeats less.
"""
