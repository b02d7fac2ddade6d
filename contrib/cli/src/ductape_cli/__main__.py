"""``python -m ductape_cli``."""

from . import main

main()
