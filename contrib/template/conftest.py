"""The template is no package yet: tests/test_template.py makes one of it, and runs its tests."""

collect_ignore = ["adapter"]
