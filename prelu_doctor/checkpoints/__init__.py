"""A file -> weights or a module: recognised by content, read without running its code."""
