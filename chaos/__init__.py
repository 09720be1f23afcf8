"""`python3 dev.py chaos`: real processes, killed at random, judged by their own clocks."""
