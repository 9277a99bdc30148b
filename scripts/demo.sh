#!/usr/bin/env bash
# `make demo`: the real thing on loopback, until Ctrl-C.
#
#   STORE=memory (default)  one HAProxy, one agent that counts in its own memory
#   STORE=redis             two HAProxies and two agents that share one count in Redis
#
# With the files of haproxy/ as they are, three FastAPI workers, and an OIDC provider (`tollgate dev-idp`).
# TOLLGATE_BIN=path runs a binary that is already built.
#
# Everything it starts is its child, on loopback, and gone when it ends, however it ends: on Ctrl-C, SIGTERM and on any
# error it stops them itself, and the kernel does it should this script be killed outright.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin:${HOME:-/root}/.cargo/bin

readonly STORE=${STORE:-memory}
# What a child gets to finish its work before it is killed.
readonly STOP_MS_MAX=5000
# From start to the first good answer of any one part; a cold Python on a slow machine is the slowest.
readonly START_MS_MAX=30000

readonly FRONT=127.0.0.1:8080 FRONT_2=127.0.0.1:8081
readonly STATS=127.0.0.1:8404 STATS_2=127.0.0.1:8405
readonly APPS=(127.0.0.1:8001 127.0.0.1:8002 127.0.0.1:8003)
readonly AGENT=127.0.0.1:9001 AGENT_2=127.0.0.1:9002
readonly ADMIN=127.0.0.1:9003 ADMIN_2=127.0.0.1:9004
readonly IDP=127.0.0.1:9400
readonly REDIS=127.0.0.1:9379

pids=()   # of what runs, in the order of starting
names=()  # beside it
logs=     # a directory of our own

main() {
  local ports=("$FRONT" "$STATS" "${APPS[@]}" "$AGENT" "$ADMIN" "$IDP")
  local install config
  case $STORE in
    memory) install=demo config=haproxy/tollgate.yaml ;;
    redis)
      install=demo-redis config=haproxy/tollgate-redis.yaml
      ports+=("$FRONT_2" "$STATS_2" "$AGENT_2" "$ADMIN_2" "$REDIS")
      ;;
    *) die "STORE is $STORE; expected memory or redis" ;;
  esac
  check_ports "${ports[@]}"

  trap 'exit 130' INT
  trap 'exit 143' TERM HUP
  trap stop_all EXIT
  logs=$(mktemp -d -t tollgate-demo.XXXXXX)

  # In the foreground: it may ask for a password, and a package manager is not to be stopped halfway.
  scripts/install.sh $install
  build
  check_ports "${ports[@]}"

  say "starting; logs in $logs"
  if [ "$STORE" = redis ]; then
    # Nothing on disk: the demo's counters end with it.
    start redis redis-server --bind "${REDIS%:*}" --port "${REDIS#*:}" --save '' --appendonly no --dir "$logs"
    until_up "$REDIS" accepts "$REDIS"
  fi
  start dev-idp "$tollgate" dev-idp --listen $IDP
  until_up "http://$IDP/.well-known/openid-configuration" answers "http://$IDP/.well-known/openid-configuration"

  local app number=0
  for app in "${APPS[@]}"; do
    start "app-$((++number))" .venv/bin/uvicorn --app-dir examples/fastapi app:app \
      --host "${app%:*}" --port "${app#*:}" --no-access-log
  done

  start agent-1 "$tollgate" run --config $config
  [ "$STORE" = memory ] ||
    start agent-2 "$tollgate" run --config $config --spop-listen tcp:$AGENT_2 --admin-listen tcp:$ADMIN_2
  for app in "${APPS[@]}"; do
    until_up "http://$app/healthz" answers "http://$app/healthz"
  done
  until_up "http://$ADMIN/readyz" answers "http://$ADMIN/readyz"
  [ "$STORE" = memory ] || until_up "http://$ADMIN_2/readyz" answers "http://$ADMIN_2/readyz"

  start_haproxy haproxy-1 $FRONT $STATS
  [ "$STORE" = memory ] || start_haproxy haproxy-2 $FRONT_2 $STATS_2
  # Through all of it: HAProxy, agent, rule, worker.
  until_up "http://$FRONT/healthz" answers "http://$FRONT/healthz"
  [ "$STORE" = memory ] || until_up "http://$FRONT_2/healthz" answers "http://$FRONT_2/healthz"

  lesson

  local died status=0
  wait -n -p died "${pids[@]}" || status=$?
  fail_of "$died" "ended by itself with status $status"
}

say() { printf 'demo: %s\n' "$*"; }
die() { printf 'demo: %s\n' "$*" >&2; exit 1; }

accepts() { (exec 3<>"/dev/tcp/${1%:*}/${1#*:}") 2>/dev/null; }
answers() { curl -fsS -o /dev/null --noproxy '*' --max-time 2 "$1" 2>/dev/null; }

# Names every taken port, not only the first, and who holds it as far as that can be seen.
check_ports() {
  local address port who taken=0
  for address; do
    accepts "$address" || continue
    port=${address#*:} who=
    if command -v ss >/dev/null; then
      who=$(ss -Hltnp "sport = :$port" 2>/dev/null | sed -n 's/.*users:(("\([^"]*\)",pid=\([0-9]*\).*/\1, process \2/p' | sort -u | paste -sd ';')
    fi
    printf 'demo: port %s on %s is taken by %s\n' "$port" "${address%:*}" "${who:-a process that is not yours to see}" >&2
    taken=1
  done
  [ $taken = 0 ] || die "stop what holds it, then try again; nothing was started"
}

build() {
  if [ -n "${TOLLGATE_BIN-}" ]; then
    [ -x "$TOLLGATE_BIN" ] || die "TOLLGATE_BIN is $TOLLGATE_BIN, which is no program"
    tollgate=$TOLLGATE_BIN
    return
  fi
  command -v cargo >/dev/null || die "cargo is missing; install a Rust toolchain (https://rustup.rs)"
  say "building; the first time takes some minutes"
  # As a child that can be waited for: a signal then ends it at once, with every compiler it started.
  child cargo build --release --locked --bin tollgate &
  pids+=($!) names+=(cargo)
  wait $! || { pids=(); die "the build failed"; }
  pids=() names=()
  tollgate=${CARGO_TARGET_DIR:-target}/release/tollgate
}

# Runs a command in a session of its own, so that a terminal's Ctrl-C reaches only this script, which then stops things
# in order; and so that the kernel ends it should this script die without a chance to.
child() { exec setsid setpriv --pdeathsig TERM -- "$@"; }

# start NAME COMMAND…
start() {
  local name=$1
  shift
  child "$@" >"$logs/$name.log" 2>&1 </dev/null &
  pids+=($!) names+=("$name")
}

# start_haproxy NAME BIND STATS
start_haproxy() {
  local environment=(TOLLGATE_BIND="$2" TOLLGATE_STATS="$3" TOLLGATE_AGENT_1=$AGENT
    TOLLGATE_APP_1="${APPS[0]}" TOLLGATE_APP_2="${APPS[1]}" TOLLGATE_APP_3="${APPS[2]}")
  [ "$STORE" = memory ] || environment+=(TOLLGATE_AGENT_2=$AGENT_2)
  # Whatever TOLLGATE_* the caller's shell holds is meant for something else.
  local name
  local forget=()
  for name in AGENT_2 FAST_1 FAST_2 SPOE_CONF LOG LOG_FORMAT HAPROXY_SOCKET; do
    forget+=(-u "TOLLGATE_$name")
  done
  start "$1" env "${forget[@]}" "${environment[@]}" haproxy -db -f haproxy/haproxy.cfg
}

# until_up WHAT PROBE ARGUMENT: probes until it succeeds. The part that was started last is the one that is waited for.
until_up() {
  local what=$1 since
  shift
  since=$(now_ms)
  until "$@"; do
    any_dead
    [ $(($(now_ms) - since)) -lt $START_MS_MAX ] || { show_logs; die "no answer from $what within $((START_MS_MAX / 1000)) s"; }
    sleep 0.1
  done
}

now_ms() { date +%s%3N; }

any_dead() {
  local pid
  for pid in "${pids[@]}"; do
    kill -0 "$pid" 2>/dev/null || fail_of "$pid" "did not start"
  done
}

fail_of() {
  local index
  for index in "${!pids[@]}"; do
    [ "${pids[index]}" != "$1" ] || {
      printf -- '--- %s.log\n' "${names[index]}" >&2
      tail -n 20 "$logs/${names[index]}.log" >&2
      die "${names[index]} $2"
    }
  done
  die "process $1 $2"
}

show_logs() {
  local name
  for name in "${names[@]}"; do
    printf -- '--- %s.log\n' "$name" >&2
    tail -n 10 "$logs/$name.log" >&2
  done
}

# Last started, first stopped: HAProxy before the agents, the agents before Redis and the provider.
stop_all() {
  local status=$? index pid since
  trap '' INT TERM HUP
  trap - EXIT
  [ ${#pids[@]} = 0 ] || say "stopping"
  for ((index = ${#pids[@]} - 1; index >= 0; index--)); do
    pid=${pids[index]}
    # The whole session: cargo's compilers, too.
    kill -TERM -- "-$pid" 2>/dev/null || kill -TERM "$pid" 2>/dev/null || continue
    since=$(now_ms)
    while kill -0 -- "-$pid" 2>/dev/null; do
      if [ $(($(now_ms) - since)) -ge $STOP_MS_MAX ]; then
        say "${names[index]} did not stop in $((STOP_MS_MAX / 1000)) s; killed"
        kill -KILL -- "-$pid" 2>/dev/null || true
        break
      fi
      sleep 0.05
    done
    wait "$pid" 2>/dev/null || true
  done
  case $status in
    0 | 130 | 143) [ -z "$logs" ] || rm -rf "$logs" ;;
    *) [ -z "$logs" ] || say "logs are kept in $logs" ;;
  esac
  # Ctrl-C is how the demo is meant to end.
  [ "$status" != 130 ] || status=0
  exit "$status"
}

lesson() {
  local token="\$(curl -s 'http://$IDP/mint?user"
  cat <<EOT

Tollgate is up. Three users: alice (groups ops, paid), bob (paid), carol (none). In another terminal:

  # allow: the application, which has no auth code, is told who is calling
  curl -si http://$FRONT/v1/whoami -H "Authorization: Bearer $token=alice')"

  # challenge (401): no token; and one that has expired
  curl -si http://$FRONT/v1/whoami
  curl -si http://$FRONT/v1/whoami -H "Authorization: Bearer $token=alice&ttl=-600')"

  # deny (403): bob is not of group ops; alice is
  curl -si http://$FRONT/admin/stats -H "Authorization: Bearer $token=bob')"
  curl -si http://$FRONT/admin/stats -H "Authorization: Bearer $token=alice')"

  # deny (400): a path that HAProxy and the application could read differently
  curl -si --path-as-is http://$FRONT/public/%2e%2e/admin/stats

  # spoofed identity is stripped, in every spelling: the application greets a stranger
  curl -s http://$FRONT/public/hello -H 'X-Auth-User: root' -H 'x_auth_user: root'; echo

  # routing by group: bob pays and gets the fast backend (worker 8003), carol does not
  curl -s http://$FRONT/v1/items -H "Authorization: Bearer $token=bob')"; echo
  curl -s http://$FRONT/v1/items -H "Authorization: Bearer $token=carol')"; echo

EOT
  if [ "$STORE" = memory ]; then
    cat <<EOT
  # throttle (429): carol may do 20 at once, then 100 a minute
  T=$token=carol'); for i in \$(seq 25); do curl -s -o /dev/null -w '%{http_code} ' http://$FRONT/v1/items -H "Authorization: Bearer \$T"; done; curl -si http://$FRONT/v1/items -H "Authorization: Bearer \$T"
EOT
  else
    cat <<EOT
  # throttle (429): carol may do 20 at once, then 100 a minute; both HAProxies and both agents share that one count
  T=$token=carol'); for i in \$(seq 13); do for p in ${FRONT#*:} ${FRONT_2#*:}; do curl -s -o /dev/null -w '%{http_code} ' http://127.0.0.1:\$p/v1/items -H "Authorization: Bearer \$T"; done; done; curl -si http://$FRONT_2/v1/items -H "Authorization: Bearer \$T"
EOT
  fi
  cat <<EOT

  HAProxy's statistics  http://$STATS/     its log, one line a request   tail -f $logs/haproxy-1.log
  the agent's metrics   http://$ADMIN/metrics   its log, one line a decision  tail -f $logs/agent-1.log

Ctrl-C stops everything.
EOT
}

main
