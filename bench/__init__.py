"""The benchmarks: `python3 dev.py bench`. Nothing imports them."""
