"""What `new-adapter` begins with is a link to contrib/template: tests/test_template.py tries it."""

collect_ignore = ["template"]
