"""One scenario a module, found by its name: see `bench.scenario` for what a module must have."""
