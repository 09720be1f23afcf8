"""daemon: the subcommands that start, stop and look after a daemon. Each stands in a module of its own
kind, whose COMMANDS has it as "daemon WORD".
"""

from __future__ import annotations

SUBCOMMANDS = {
    "reload": "reloading",
    "install": "installing",
    "uninstall": "installing",
}

HELP = """\
usage: atmost daemon COMMAND ...

Start, stop and look after the daemon that keeps the limits.

  reload                    have it read its configuration file again
  install                   make it a service of systemd: of the system, or your own (--user)
  uninstall                 take away what install put there

`atmost daemon COMMAND --help` has the rest.
"""
