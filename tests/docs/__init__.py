"""The documentation, checked: commands run, options and keys exist, links lead somewhere."""
