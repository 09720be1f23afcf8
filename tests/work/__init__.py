"""What counts work, and not time: system calls and allocations of a real process."""
