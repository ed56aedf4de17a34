#include <ostream>

#include "agent/kubectl/cluster_views.h"
#include "agent/kubectl/command.h"

namespace espalier::kubectl {
namespace {

constexpr char kBash[] = R"sh(# source <(kubectl-espalier completion bash)
_kubectl_espalier() {
  local current="${COMP_WORDS[COMP_CWORD]}" command="" word
  for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
    case "$word" in -*) ;; *) command="$word"; break ;; esac
  done
  case "$command" in
    "") COMPREPLY=($(compgen -W "status tunnels show pods drops verify rekey rotate sysdump uninstall completion --help --version --context --kubeconfig --socket --output" -- "$current")) ;;
    tunnels|show|rekey|rotate) COMPREPLY=($(compgen -W "$(${KUBECTL:-kubectl} get espaliernodes -o name 2>/dev/null | sed 's,.*/,,')" -- "$current")) ;;
    completion) COMPREPLY=($(compgen -W "bash zsh fish kubectl" -- "$current")) ;;
    status) COMPREPLY=($(compgen -W "--wait --timeout" -- "$current")) ;;
    pods) COMPREPLY=($(compgen -W "--namespace" -- "$current")) ;;
    drops) COMPREPLY=($(compgen -W "--namespace --follow" -- "$current")) ;;
    verify) COMPREPLY=($(compgen -W "--from --to --probe" -- "$current")) ;;
    uninstall) COMPREPLY=($(compgen -W "--force --timeout" -- "$current")) ;;
  esac
}
complete -F _kubectl_espalier kubectl-espalier
)sh";

constexpr char kZsh[] = R"sh(#compdef kubectl-espalier
# source <(kubectl-espalier completion zsh)
_kubectl_espalier() {
  if (( CURRENT == 2 )); then
    compadd status tunnels show pods drops verify rekey rotate sysdump uninstall completion
    return
  fi
  case "${words[2]}" in
    tunnels|show|rekey|rotate) compadd -- ${(f)"$(${KUBECTL:-kubectl} get espaliernodes -o name 2>/dev/null | sed 's,.*/,,')"} ;;
    completion) compadd bash zsh fish kubectl ;;
    status) compadd -- --wait --timeout ;;
    pods) compadd -- --namespace ;;
    drops) compadd -- --namespace --follow ;;
    verify) compadd -- --from --to --probe ;;
    uninstall) compadd -- --force --timeout ;;
  esac
}
compdef _kubectl_espalier kubectl-espalier
)sh";

constexpr char kFish[] = R"sh(# kubectl-espalier completion fish | source
complete -c kubectl-espalier -f
complete -c kubectl-espalier -n __fish_use_subcommand -a 'status tunnels show pods drops verify rekey rotate sysdump uninstall completion'
complete -c kubectl-espalier -n '__fish_seen_subcommand_from tunnels show rekey rotate' -a '(kubectl get espaliernodes -o name 2>/dev/null | sed "s,.*/,,")'
complete -c kubectl-espalier -n '__fish_seen_subcommand_from completion' -a 'bash zsh fish kubectl'
complete -c kubectl-espalier -n '__fish_seen_subcommand_from status' -a '--wait --timeout'
complete -c kubectl-espalier -n '__fish_seen_subcommand_from pods' -a '--namespace'
complete -c kubectl-espalier -n '__fish_seen_subcommand_from drops' -a '--namespace --follow'
complete -c kubectl-espalier -n '__fish_seen_subcommand_from verify' -a '--from --to --probe'
complete -c kubectl-espalier -n '__fish_seen_subcommand_from uninstall' -a '--force --timeout'
)sh";

// kubectl asks a program of this name to complete `kubectl espalier ...`: one
// candidate a line, then a directive (4: no file names).
constexpr char kKubectl[] = R"sh(#!/bin/sh
# kubectl-espalier completion kubectl > kubectl_complete-espalier; chmod +x it
# and put it on PATH: kubectl asks it to complete `kubectl espalier`.
case "$1" in
  tunnels|show|rekey|rotate)
    if [ $# -gt 1 ]; then
      "${KUBECTL:-kubectl}" get espaliernodes -o name 2>/dev/null | sed 's,.*/,,'
      echo :4
      exit 0
    fi ;;
esac
if [ $# -le 1 ]; then
  for word in status tunnels show pods drops verify rekey rotate sysdump uninstall completion; do
    case "$word" in "$1"*) echo "$word" ;; esac
  done
fi
echo :4
)sh";

}  // namespace

int Completion(const std::string& shell, std::ostream& out, std::ostream& err) {
  if (shell == "bash") {
    out << kBash;
  } else if (shell == "zsh") {
    out << kZsh;
  } else if (shell == "fish") {
    out << kFish;
  } else if (shell == "kubectl") {
    out << kKubectl;
  } else {
    err << "completion for '" << shell
        << "' is not known: bash, zsh, fish, kubectl\n";
    return kExitUsage;
  }
  return kExitOk;
}

}  // namespace espalier::kubectl
