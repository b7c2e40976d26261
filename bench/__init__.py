"""Load tests and measurements: `python -m bench list` names them. Not part of the wheel."""
