#!/usr/bin/env bash
# Fetches Valkey from a newer Debian suite into .valkey, and installs nothing: bookworm has none.
#
#   tests/support/valkey.sh
#
# Through the mirror that this machine's own apt uses. The program is unpacked with the shared libraries of its own suite
# and run by its own ld.so, so it does not matter what this machine is.
set -euo pipefail
cd "$(dirname "$0")/../.."

readonly PLACE=.valkey
readonly SUITE=trixie

say() { printf 'valkey: %s\n' "$*"; }
die() { say "$*" >&2; exit 1; }

main() {
  if [ -x $PLACE/valkey-server ]; then
    say "up to date in $PLACE"
    return
  fi
  # Into a folder beside its place, which it takes when it is whole: an interrupted run leaves nothing half done.
  local part=$PLACE.part
  rm -rf $PLACE $part
  mkdir -p $part
  fetch "$(cd $part && pwd)" || die "cannot get it from $SUITE"
  local version
  version=$($part/valkey-server --version) || die "the program does not run"
  rm -rf $part/apt
  mv $part $PLACE
  say "$version"
}

fetch() {
  local place=$1 here mirror keyring=/usr/share/keyrings/debian-archive-keyring.gpg
  here=$(. /etc/os-release; echo "$VERSION_CODENAME")
  mirror=$(apt-get indextargets --format '$(SITE) $(CODENAME) $(COMPONENT)' 'Identifier: Packages' |
    awk -v here="$here" '$2 == here && $3 == "main" && !m { m = $1 } END { print m }')
  [ -n "$mirror" ] || { echo "no Debian mirror in apt's own configuration"; return 1; }

  local apt=$place/apt
  mkdir -p "$apt"/{lists,cache/archives}/partial "$place/root"
  echo "deb [signed-by=$keyring] $mirror $SUITE main" >"$apt/sources.list"
  : >"$apt/status"
  local options=(-qq
    -o Dir::Etc::sourcelist="$apt/sources.list" -o Dir::Etc::sourceparts=/dev/null
    -o Dir::Etc::preferencesparts=/dev/null -o Dir::Etc::preferences=/dev/null
    -o Dir::State="$apt" -o Dir::State::Lists="$apt/lists" -o Dir::State::status="$apt/status"
    -o Dir::Cache="$apt/cache" -o Dir::Cache::archives="$apt/cache/archives" -o APT::Keep-Downloaded-Packages=true
    -o DPkg::Post-Invoke= -o APT::Update::Post-Invoke= -o Acquire::Languages=none
    -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false
    -o Debug::NoLocking=true)
  # As root apt would fetch as another user, who cannot write here.
  [ "$(id -u)" != 0 ] || options+=(-o APT::Sandbox::User=root)
  apt-get "${options[@]}" update || return 1
  apt-get "${options[@]}" -y --download-only --no-install-recommends install valkey-server || return 1
  local package
  for package in "$apt"/cache/archives/*.deb; do
    case ${package##*/} in
      valkey-* | lib* | zlib1g_* | openssl-provider*) dpkg-deb -x "$package" "$place/root" || return 1 ;;
    esac
  done
  local ld
  ld=$(cd "$place" && find root -name 'ld-linux-*.so.*' -o -name 'ld-2*.so' -o -name 'ld64.so.*' | sort | sed -n 1p)
  [ -n "$ld" ] || { echo "no dynamic loader among the packages of $SUITE"; return 1; }
  # One program is all of them; which it is, it reads from its name.
  cat >"$place/valkey-server" <<WRAPPER
#!/bin/sh
# Runs this suite's Valkey with this suite's libraries.
here=\$(cd "\$(dirname "\$0")" && pwd)
triplet=\$(cd "\$here/root/usr/lib" && ls -d ./*-linux-gnu* | sed -n '1s/^..//p')
exec "\$here/$ld" --library-path "\$here/root/usr/lib/\$triplet:\$here/root/lib/\$triplet" --argv0 valkey-server \\
  "\$here/root/usr/bin/valkey-server" "\$@"
WRAPPER
  chmod +x "$place/valkey-server"
}

main "$@"
