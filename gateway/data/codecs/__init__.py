"""One file a protocol: bytes to arrays and back."""
