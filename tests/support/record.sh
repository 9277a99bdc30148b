#!/usr/bin/env bash
# Records proto-fixtures/haproxy-LINE anew: each HAProxy of .haproxy, with a small configuration of its own, asks this
# build's agent through `spop-harness record`.
#
#   tests/support/record.sh                 every line, every behaviour
#   tests/support/record.sh 2.6 3.4         these lines
#   ONLY=idle tests/support/record.sh 2.6   one behaviour
#
# A file is replaced when its recording is there; times, engine-ids and decision ids in it differ from run to run. What a
# line does not do has no file. Everything runs in a folder of its own and ends with this script.
set -euo pipefail
cd "$(dirname "$0")/../.."

readonly BIN=${BIN:-target/debug}
readonly FIXTURES=proto-fixtures
RUN=$(mktemp -d)
PIDS=()

say() { printf 'record: %s\n' "$*"; }

stop_all() {
  local pid
  for pid in "${PIDS[@]:+${PIDS[@]}}"; do
    kill -KILL "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
  done
  PIDS=()
}
trap 'stop_all; rm -rf "$RUN"' EXIT

main() {
  [ -x "$BIN/spop-harness" ] || { say "build first: cargo build --bins"; exit 1; }
  local lines=("$@") line
  [ $# -gt 0 ] || lines=(2.6 2.8 3.0 3.2 3.4)
  for line in "${lines[@]}"; do
    LINE=$line HAPROXY=$PWD/.haproxy/$line/haproxy
    [ -x "$HAPROXY" ] || { say "$line: no .haproxy/$line/haproxy; tests/support/haproxies.sh fetches it"; continue; }
    VERSION=$("$HAPROXY" -v | sed -n '1s/^HAProxy version \([^ ~-]*\).*/\1/p')
    mkdir -p "$FIXTURES/haproxy-$LINE"
    behaviours
  done
}

# Up to 3.0 the engine is another one.
old() { case $LINE in 2.* | 3.0) true ;; *) false ;; esac; }

# Each behaviour: its file, what it shows, and variables for the configuration; then what is done. `defaults` resets them.
behaviours() {
  defaults; BACKEND='option spop-check'; SERVER='check inter 500ms'; CONNECTIONS=1
  behaviour healthcheck 'A health check (option spop-check): a HELLO that wants an AGENT-HELLO and nothing after it.' relay_ended

  defaults
  behaviour first-request 'The first request on a connection: HELLO, one NOTIFY, its ACK.' ask /public/first

  defaults
  behaviour consecutive-requests 'Three requests, one after the other, on one connection.' ask_thrice

  defaults
  behaviour pipelined 'Five requests in flight together. The agent was held (SIGSTOP) until HAProxy had sent all.' ask_together

  defaults; OPTIONS='no option pipelining'
  behaviour no-pipelining 'Pipelining is not offered: each NOTIFY waits for the ACK of the one before. What came meanwhile went over other connections.' ask_together

  if old; then
    defaults; OPTIONS='no option async'
    behaviour no-async 'The async capability is not offered (no option async).' ask /public/no-async
  fi

  defaults; ARGS="$VALUES"
  behaviour values 'Every type of value that HAProxy sends: bool, int, negative int, ipv4, ipv6, str, bin, method, null, an empty string, an argument without a name.' ask /public/values

  defaults; MESSAGES='request second third'
  behaviour several-messages 'Two messages in one NOTIFY. A third is left out because its ACL is false.' ask /public/several

  # From 3.1 on the second NOTIFY may well come on another connection.
  if old; then
    defaults; MESSAGES=; GROUP=1
    behaviour two-notifies-of-one-stream 'Two NOTIFYs of one HTTP stream (send-spoe-group twice), one after the other.' ask /public/twice
  fi

  defaults; MAX_FRAME_SIZE=256
  behaviour max-frame-size-256 'The smallest max-frame-size.' ask /public/small

  defaults; BUFSIZE=65536
  behaviour max-frame-size-65532 'A large max-frame-size (tune.bufsize 65536), and a NOTIFY of some 8 kB.' ask_long 8000

  if old; then
    defaults; MAX_FRAME_SIZE=256
    behaviour fragmented 'A NOTIFY in fragments: the agent announced fragmentation, and the payload does not fit max-frame-size.' ask_long 700
    defaults; OPTIONS='timeout idle 1s'
    behaviour idle 'Idle for longer than timeout idle: DISCONNECT with status 2.' ask_and_wait_for_end
    defaults
    behaviour soft-stop 'A soft stop (SIGUSR1) with an idle connection: DISCONNECT with status 0.' ask_and_stop
  else
    defaults; SERVER='pool-purge-delay 500ms pool-low-conn 0 pool-max-conn 1'
    behaviour idle 'Idle for longer than the pool keeps a connection (pool-purge-delay): closed without a DISCONNECT.' ask_and_wait_for_end
    defaults
    behaviour soft-stop 'A soft stop (SIGUSR1) with an idle connection: closed without a DISCONNECT.' ask_and_stop
  fi
}

readonly VALUES='yes=bool(true) no=bool(false) int=int(42) large=int(9223372036854775807) negative=int(-1)
    args ipv4=ipv4(192.0.2.1) ipv6=ipv6(2001:db8::1) str=str(text) bin=bin(00ff10) verb=method
    args null=req.fhdr(x-absent) empty=req.fhdr(x-empty) int(7)'

defaults() {
  OPTIONS='' ARGS='' MESSAGES=request GROUP='' MAX_FRAME_SIZE='' BUFSIZE='' BACKEND='' SERVER='' CONNECTIONS=''
}

# behaviour NAME COMMENT DRIVE...
behaviour() {
  local name=$1 comment=$2 kept; shift 2
  [ -z "${ONLY-}" ] || [ "$ONLY" = "$name" ] || return 0
  rm -rf "${RUN:?}"/*
  start
  "$@"
  # The relay writes what it has and ends; HAProxy and the agent are not asked.
  kill -TERM "$RELAY" 2>/dev/null || true
  wait "$RELAY" 2>/dev/null || true
  stop_all
  # A burst may have opened more connections: the one that said most is the one to keep.
  kept=$(ls -S "$RUN"/out/*.txt 2>/dev/null | sed -n 1p)
  [ -n "$kept" ] || { say "$LINE $name: nothing was recorded"; tail -5 "$RUN"/*.log; exit 1; }
  { printf '# %s\n#\n# HAProxy %s; recorded by tests/support/record.sh\n' "$comment" "$VERSION"; cat "$kept"; } >"$RUN/fixture.txt"
  "$BIN/spop-harness" decode --bless "$RUN/fixture.txt"
  "$BIN/spop-harness" decode "$RUN/fixture.txt" >/dev/null
  mv "$RUN/fixture.txt" "$FIXTURES/haproxy-$LINE/$name.txt"
  say "$LINE $name: $(wc -c <"$FIXTURES/haproxy-$LINE/$name.txt") bytes"
}

start() {
  PORT=$(free_port)
  local groups='' rules='' event='event on-frontend-http-request' mode=spop
  old && mode=tcp
  if [ -n "$GROUP" ]; then
    groups='groups check' event=''
    rules=$'http-request send-spoe-group e check\n    http-request send-spoe-group e check'
  fi
  cat >"$RUN/haproxy.cfg" <<EOF
global
    nbthread 1
${BUFSIZE:+    tune.bufsize $BUFSIZE}
defaults
    mode http
    timeout client 5s
    timeout connect 2s
    timeout server 30s
frontend fe
    bind unix@$RUN/fe.sock
    filter spoe engine e config $RUN/spoe.conf
    $rules
    http-request return status 200 content-type text/plain lf-string "%[var(txn.e.verdict)] %[var(txn.e.error)]"
backend agents
    mode $mode
    timeout server 1m
    $BACKEND
    server a 127.0.0.1:$PORT $SERVER
EOF
  cat >"$RUN/spoe.conf" <<EOF
[e]
spoe-agent e
${MESSAGES:+    messages $MESSAGES}
    $groups
    option var-prefix e
    option set-on-error error
${MAX_FRAME_SIZE:+    max-frame-size $MAX_FRAME_SIZE}
    timeout hello 5s
    timeout idle 50s
    timeout processing 5s
    $OPTIONS
    use-backend agents
spoe-message request
    args method=method path=path long=req.fhdr(x-long)
${ARGS:+    args $ARGS}
    $event
spoe-message second
    args here=str(yes)
    event on-frontend-http-request
spoe-message third
    args never=str(yes)
    event on-frontend-http-request if { always_false }
spoe-group check
    messages request
EOF
  launch AGENT agent "$BIN/tollgate" run --config "$FIXTURES/tollgate.yaml" --spop-listen "unix:$RUN/agent.sock"
  until_true 'the agent listens' test -S "$RUN/agent.sock"
  launch RELAY relay "$BIN/spop-harness" record --listen "127.0.0.1:$PORT" --target "unix:$RUN/agent.sock" \
    --out "$RUN/out" ${CONNECTIONS:+--connections "$CONNECTIONS"}
  until_true 'the relay listens' listens "$PORT"
  launch PROXY haproxy "$HAPROXY" -db -f "$RUN/haproxy.cfg"
  until_true 'HAProxy listens' test -S "$RUN/fe.sock"
}

# launch VARIABLE NAME COMMAND...
launch() {
  local variable=$1 name=$2; shift 2
  "$@" >"$RUN/$name.log" 2>&1 &
  printf -v "$variable" %s $!
  PIDS+=($!)
}

until_true() {
  local what=$1 tries; shift
  for tries in {1..500}; do
    "$@" && return
    sleep 0.02
  done
  say "$LINE: not within ten seconds: $what"; tail -5 "$RUN"/*.log; exit 1
}

free_port() {
  local port
  while port=$((20000 + RANDOM % 12000)); listens "$port"; do :; done
  echo "$port"
}

# Looked up and not tried: a connection would be recorded.
listens() { grep -qi "^ *[0-9]*: [0-9A-F]*:$(printf %04X "$1") [0-9A-F:]* 0A" /proc/net/tcp; }

ended() { ! kill -0 "$1" 2>/dev/null; }

ask() {
  local path=$1 answer; shift
  answer=$(curl -sS --max-time 10 --retry 5 --retry-connrefused --unix-socket "$RUN/fe.sock" -H 'x-empty;' "$@" \
    "http://fixture.example$path")
  case $answer in allow\ | deny\ ) ;; *) say "$LINE: $path: $answer"; exit 1 ;; esac
}

ask_thrice() { ask /public/1; ask /public/2; ask /private; }

ask_together() {
  local number pids=()
  ask /public/warm
  kill -STOP "$AGENT"
  for number in 1 2 3 4 5; do
    ask "/public/$number" & pids+=($!)
  done
  sleep 0.5
  kill -CONT "$AGENT"
  for number in "${pids[@]}"; do wait "$number"; done
}

ask_long() { ask /public/long -H "x-long: $(printf "%0$1d" 0)"; }

ask_and_wait_for_end() {
  ask /public/idle
  kill -0 "$RELAY"
  until_true 'HAProxy lets the idle connection go' recorded
}

# A file is there when its connection is over.
recorded() { ls "$RUN"/out/*.txt >/dev/null 2>&1; }

ask_and_stop() {
  ask /public/stop
  kill -USR1 "$PROXY"
  until_true 'HAProxy ends' ended "$PROXY"
  until_true 'the connection is over' recorded
}

relay_ended() { until_true 'one health check is over' ended "$RELAY"; }

main "$@"
