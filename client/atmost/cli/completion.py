"""completion: the scripts that make a shell ask `atmost` itself what may come next.

Rule: a script knows nothing of commands, options or limits, so that it cannot go stale.
"""

from __future__ import annotations

from argparse import Namespace

from atmost.cli import output
from atmost.cli.parser import Command, Parser

SHELLS = ("bash", "zsh", "fish")

BASH = r"""# atmost for bash: put into ~/.bashrc:  source <(atmost completion bash)
_atmost() {
    local -a found
    mapfile -t found < <(atmost completion --line "${COMP_LINE:0:COMP_POINT}" \
        --breaks "$COMP_WORDBREAKS" 2>/dev/null)
    if [[ ${found[0]-} == / ]]; then  # a file, or a command of the shell
        if [[ ${COMP_WORDS[COMP_CWORD - 1]} == -- ]]; then
            mapfile -t COMPREPLY < <(compgen -c -- "$2")
        else
            compopt -o default
            COMPREPLY=()
        fi
        return
    fi
    COMPREPLY=("${found[@]}")
    if [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == *= ]]; then
        compopt -o nospace
    fi
}
complete -F _atmost atmost
"""

ZSH = r"""#compdef atmost
# atmost for zsh: put into ~/.zshrc, behind compinit:  source <(atmost completion zsh)
_atmost() {
    local -a found
    found=("${(@f)$(atmost completion -- "${(@Q)words[1,CURRENT-1]}" \
        "${words[CURRENT]}" 2>/dev/null)}")
    if [[ ${found[1]} == / ]]; then
        if [[ ${words[CURRENT-1]} == -- ]]; then _command_names; else _files; fi
        return
    fi
    compadd -S '' -- ${(M)found:#*=}
    compadd -- ${found:#*=}
}
compdef _atmost atmost
"""

FISH = r"""# atmost for fish: put into ~/.config/fish/config.fish:  atmost completion fish | source
function __atmost_words
    set -l found (atmost completion -- (commandline -opc) (commandline -ct) 2>/dev/null)
    if test "$found[1]" = /
        __fish_complete_path (commandline -ct)
    else if set -q found[1]
        printf '%s\n' $found
    end
end
complete -c atmost -f -a '(__atmost_words)'
"""

SCRIPTS = dict(zip(SHELLS, (BASH, ZSH, FISH), strict=True))


def completion(given: Namespace) -> int:
    """Write a script, or answer one."""
    if given.line is None and not given.behind:
        if not given.names:
            given.parser.error("SHELL is missing: bash, zsh or fish")
        output.write_text(SCRIPTS[given.names[0]])
        return 0
    from atmost.cli import completing

    words = completing.words_of(given)
    output.write_text("".join(f"{word}\n" for word in words), encoding="utf-8")
    return 0


def _options(of: Parser) -> None:
    of.add_argument("--line", metavar="TEXT", help="as bash asks: the line up to the cursor")
    of.add_argument("--breaks", metavar="CHARS", default="", help="where a word of bash ends")


COMMANDS = {
    "completion": Command(
        "bash|zsh|fish",
        "Write the script that completes commands, options and the names of limits in that shell:\n\n"
        "  source <(atmost completion bash)     in ~/.bashrc\n"
        "  source <(atmost completion zsh)      in ~/.zshrc, behind compinit\n"
        "  atmost completion fish | source      in ~/.config/fish/config.fish\n\n"
        "The script asks for what may come next: `atmost completion -- WORD...`, where the last WORD is\n"
        "the one to complete, as typed; `/` alone means a file. It never starts a daemon.",
        _options,
        completion,
        names_max=1,
        choices=SHELLS,
        takes_rest=True,
    ),
}
