"""Methods that make edits, one file each, under one registry."""
