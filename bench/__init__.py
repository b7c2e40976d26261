"""Load tests. Not part of the wheel."""
