"""daemon: the subcommands that start, stop and look after a daemon. Each stands in a module of its own
kind, whose COMMANDS has it as "daemon WORD".
"""

from __future__ import annotations

SUBCOMMANDS = {
    "start": "daemon_control",
    "stop": "daemon_control",
    "restart": "daemon_control",
    "reload": "reloading",
    "status": "daemon_control",
    "run": "daemon_control",
    "install": "installing",
    "uninstall": "installing",
}

HELP = """\
usage: atmost daemon COMMAND ...

Start, stop and look after the daemon that keeps the limits.

  start                     start one in the background, unless one runs
  stop                      stop it; who holds slots keeps them, who waits keeps the place
  restart                   stop it and start it again
  reload                    have it read its configuration file again
  status                    whether it runs, and what it says of itself
  run                       run one here, in the foreground
  install                   make it a service of systemd: of the system, or your own (--user)
  uninstall                 take away what install put there

Where systemd looks after the daemon, start, stop, restart and run name the command of systemd
instead.
`atmost daemon COMMAND --help` has the rest.
"""
