"""What passed by, how it compares with what was promised, what to do about it."""
