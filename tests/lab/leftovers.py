"""What of Espalier's stands on a node, by its marks of ownership."""

from collections.abc import Callable

# The tables, the interfaces, the routes and rules (agent/network/ownership.h has
# the numbers), then the files.
_FIND = r"""
nft list tables | grep espalier
ip -o link show | grep -oE '(espalier0|esp[0-9a-f]{11})[:@]'
for family in 4 6; do
  for protocol in 69 70; do
    ip "-$family" route show table all proto "$protocol"
    ip "-$family" rule show | grep "proto $protocol\b"
  done
done
for path in $*; do [ -e "$path" ] && echo "$path"; done
true"""


def leftovers(run: Callable, *paths: str) -> list[str]:
    """run: a node's own. paths: of files, patterns of the shell."""
    return run(["sh", "-c", _FIND, "find", *map(str, paths)]).stdout.splitlines()
