"""What can be asked here."""


def document() -> bytes:
    return b"{}"
