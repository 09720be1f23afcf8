"""atmostd: the daemon that keeps the limits of one host."""
