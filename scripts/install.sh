#!/usr/bin/env bash
# Installs what is missing for the demo or the tests, and nothing else. Safe to run again: what is there stays as it is.
#
#   scripts/install.sh demo         HAProxy, curl, FastAPI and uvicorn (in .venv)
#   scripts/install.sh demo-redis   that, and Redis
#   scripts/install.sh test         that, the OIDC provider of the tests (npm, in tests/support/idp), another JOSE library
#                                   (in .venv), an LDAP server, libfaketime, and the HAProxy lines that the protocol
#                                   is tested against (in .haproxy)
#
# From Debian's packages, PyPI and npm, through the mirrors this system is set up with. No service is started, and none
# that runs is touched.
set -euo pipefail
cd "$(dirname "$0")/.."
# Debian keeps haproxy where an ordinary user's PATH does not look.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

readonly REQUIREMENTS=examples/fastapi/requirements.txt
readonly TEST_REQUIREMENTS=tests/support/jose/requirements.txt
readonly VENV=.venv
readonly IDP=tests/support/idp
# What the OIDC provider of the tests runs on; Debian 12 packages it.
readonly NODE_MAJOR_MIN=18

say() { printf 'install: %s\n' "$*"; }
die() { printf 'install: %s\n' "$*" >&2; exit 1; }
has() { command -v "$1" >/dev/null; }

main() {
  local set=${1-}
  case $set in
    demo | demo-redis | test) ;;
    *) die "usage: scripts/install.sh demo|demo-redis|test" ;;
  esac

  local packages=()
  has haproxy || packages+=(haproxy)
  has curl || packages+=(curl)
  [ -n "$(python_with_venv)" ] || packages+=(python3-venv)
  if [ "$set" != demo ]; then
    has redis-server || packages+=(redis-server)
  fi
  if [ "$set" = test ]; then
    has node || packages+=(nodejs)
    has ip || packages+=(iproute2)
    has npm || packages+=(npm)
    has slapd || packages+=(slapd)
    has ldapsearch || packages+=(ldap-utils)
    has openssl || packages+=(openssl)
    has faketime || packages+=(faketime)
  fi

  if [ ${#packages[@]} -gt 0 ]; then
    install_packages "${packages[@]}"
  else
    say "system packages: nothing missing"
  fi
  install_python
  if [ "$set" = test ]; then
    install_jose
    install_idp
    tests/support/haproxies.sh
    # Without it its one test fails and says so; all others run.
    tests/support/valkey.sh || say "Valkey could not be fetched"
  fi
}

# A python3 that can make a venv with pip in it; nothing if there is none. The first one in PATH need not be the one that
# python3-venv belongs to.
python_with_venv() {
  local python
  for python in python3 /usr/bin/python3; do
    if "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
      echo "$python"
      return
    fi
  done
}

install_packages() {
  has apt-get || die "missing: $*. This is no Debian or Ubuntu (no apt-get); install them with your package manager"
  local root=()
  if [ "$(id -u)" != 0 ]; then
    local command="apt-get install --no-install-recommends $*"
    has sudo || die "missing: $*. Installing needs root and there is no sudo. As root: $command"
    sudo -v || die "missing: $*. Installing needs root. Run yourself: sudo $command"
    root=(sudo)
  fi

  # Debian starts a service as soon as its package is there, on ports that may be the demo's or somebody's. Its own hook
  # against that is policy-rc.d: 101 means "not allowed". One that is there already is somebody's, and stays.
  local policy=/usr/sbin/policy-rc.d
  if [ ! -e $policy ]; then
    # The trap also runs when apt fails or is interrupted: a left-over hook would keep every later service down.
    # shellcheck disable=SC2064  # expanded now on purpose: the array is local
    trap "${root[*]} rm -f $policy" EXIT
    printf '#!/bin/sh\nexit 101\n' | "${root[@]}" tee $policy >/dev/null
    "${root[@]}" chmod 755 $policy
  fi

  local apt=("${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=120)
  say "refreshing the package lists"
  "${apt[@]}" -qq update || say "the package lists could not be refreshed; going on with those that are here"
  say "installing $*"
  "${apt[@]}" -y -qq --no-install-recommends install "$@" || die "apt-get could not install: $*"

  if [ -n "$(trap -p EXIT)" ]; then
    "${root[@]}" rm -f $policy
    trap - EXIT
    say "installed; no service was started, though Debian will start them at the next boot (systemctl disable)"
  fi
}

install_python() {
  local stamp=$VENV/.installed
  # Where the venv stands counts too: it does not survive being moved or copied.
  local wanted
  wanted=$(pwd; cat $REQUIREMENTS)
  if [ -x $VENV/bin/uvicorn ] && [ "$(cat $stamp 2>/dev/null)" = "$wanted" ]; then
    say "python parts: up to date in $VENV"
    return
  fi
  local python
  python=$(python_with_venv)
  [ -n "$python" ] || die "no python3 of version 3.10 or later that can make a venv"
  say "python parts: into $VENV"
  "$python" -m venv --clear $VENV
  $VENV/bin/pip install --quiet --disable-pip-version-check --no-input -r $REQUIREMENTS ||
    die "pip could not install $REQUIREMENTS"
  printf '%s\n' "$wanted" >$stamp
}

# A library that reads tokens for its own part, for the tests that compare.
install_jose() {
  local stamp=$VENV/.installed-test
  if cmp -s $TEST_REQUIREMENTS $stamp; then
    say "python parts of the tests: up to date in $VENV"
    return
  fi
  say "python parts of the tests: into $VENV"
  $VENV/bin/pip install --quiet --disable-pip-version-check --no-input -r $TEST_REQUIREMENTS ||
    die "pip could not install $TEST_REQUIREMENTS"
  cp $TEST_REQUIREMENTS $stamp
}

install_idp() {
  [ -f $IDP/package-lock.json ] || return 0
  local major
  major=$(node -p 'process.versions.node.split(".")[0]')
  [ "$major" -ge $NODE_MAJOR_MIN ] || die "node is version $major, the tests' OIDC provider needs $NODE_MAJOR_MIN"
  local stamp=$IDP/node_modules/.installed
  if cmp -s $IDP/package-lock.json $stamp; then
    say "OIDC provider of the tests: up to date in $IDP"
    return
  fi
  say "OIDC provider of the tests: into $IDP"
  npm --prefix $IDP ci --no-audit --no-fund --no-update-notifier --loglevel=error ||
    die "npm could not install $IDP"
  cp $IDP/package-lock.json $stamp
}

main "$@"
