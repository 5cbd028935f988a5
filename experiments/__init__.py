"""What was measured with contraflow: the tables and figures of its paper, and benchmarks. Never installed."""
