"""What preparation costs: `python -m benchmarks.perf.prepare` writes benchmarks/results/prepare.json."""
