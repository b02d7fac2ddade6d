"""Broken on purpose: adapters and kernels with one defect each, and the scenario that must notice it.

A kit that passes everything proves nothing. Each mutant is the memory adapter, or ductape's kernel, with one defect
that was found in the wild or is easily made; `judge` plays it.
"""

from ._adapters import ADAPTERS as _CONTENT
from ._applications import APPLICATIONS
from ._claims import CLAIMS
from ._kernels import KERNELS as _MACHINERY
from ._lives import LIVES
from ._mutant import Broken, Mutant, Verdict, judge
from ._processes import PROCESSES
from ._rules import RULES

__all__ = ["ADAPTERS", "KERNELS", "MUTANTS", "Broken", "Mutant", "Verdict", "judge"]

ADAPTERS: tuple[Mutant, ...] = (*_CONTENT, *LIVES, *CLAIMS, *PROCESSES)
KERNELS: tuple[Mutant, ...] = (*_MACHINERY, *APPLICATIONS, *RULES)
MUTANTS: dict[str, Mutant] = {one.name: one for one in (*ADAPTERS, *KERNELS)}
