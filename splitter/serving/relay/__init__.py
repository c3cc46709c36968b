"""A path between device and server that can be bent while it runs: for tests, benchmarks and the demo."""
