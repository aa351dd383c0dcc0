"""What each shell runs to complete a command line; it asks dmeta, which knows the words."""

from __future__ import annotations

_BASH = r"""# dmeta completion for bash
_dmeta() {
  local IFS=$'\n' line word
  line="${COMP_LINE:0:COMP_POINT}"
  word="${line##*[[:space:]]}"
  COMPREPLY=($("$1" @QUERY@ "$line" 2>/dev/null | cut -f1))
  # bash takes what follows "=" for a word of its own
  if [[ "$word" == *=* && "$COMP_WORDBREAKS" == *=* ]]; then
    local before="${word%"${word##*=}"}"
    COMPREPLY=("${COMPREPLY[@]#"$before"}")
  fi
  if [[ ${#COMPREPLY[@]} -eq 1 && "${COMPREPLY[0]}" == *[=.] ]]; then
    compopt -o nospace
  fi
}
complete -o bashdefault -o default -F _dmeta dmeta
"""

_ZSH = r"""#compdef dmeta
# dmeta completion for zsh
_dmeta() {
  local line each text what
  local -a whole whole_shown open open_shown
  line="${(j: :)words[1,CURRENT-1]} $PREFIX"
  for each in "${(@f)$("${words[1]}" @QUERY@ "$line" 2>/dev/null)}"; do
    text="${each%%$'\t'*}" what="${each#*$'\t'}"
    [[ -z "$text" ]] && continue
    [[ -n "$what" ]] && what="$text  -- $what" || what="$text"
    if [[ "$text" == *[=.] ]]; then
      open+=("$text") open_shown+=("$what")
    else
      whole+=("$text") whole_shown+=("$what")
    fi
  done
  if (( ${#whole} + ${#open} == 0 )); then
    compset -P '*='
    _files
    return
  fi
  (( ${#whole} )) && compadd -l -d whole_shown -a whole
  (( ${#open} )) && compadd -l -S '' -d open_shown -a open
  return 0
}
if [[ "$funcstack[1]" == _dmeta ]]; then
  _dmeta "$@"
else
  compdef _dmeta dmeta
fi
"""

_FISH = r"""# dmeta completion for fish
function __dmeta_complete
    set -l line (commandline --cut-at-cursor)
    set -l program (string split --no-empty ' ' -- $line)[1]
    $program @QUERY@ "$line" 2>/dev/null
end
complete --command dmeta --no-files --arguments '(__dmeta_complete)'
"""

SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}
"""Shell -> its script, in which ``@QUERY@`` stands for the flag that asks."""
