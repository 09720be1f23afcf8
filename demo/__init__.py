"""The demo: `python3 dev.py demo`. It uses the client as any program would; nothing imports it."""
