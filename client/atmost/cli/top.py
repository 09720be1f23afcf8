COMMANDS: dict[str, object] = {}
