"""Serving: the data plane, the control plane, and what starts them."""
