"""What runs in a client process: one module for each kind. See __main__.py."""
