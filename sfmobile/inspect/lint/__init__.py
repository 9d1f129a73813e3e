"""A linter for the Neural Engine: rules as data, checked on the exported program."""
