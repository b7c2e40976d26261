"""Other servers with the bench's own model, each in an environment of its own; `bench.peers.registry` names them."""
