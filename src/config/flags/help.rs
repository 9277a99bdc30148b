//! Examples of each command, behind its flags.

pub(super) const EXAMPLES: &str = "\
Begin with:
  tollgate check --config tollgate.yaml
  tollgate run --config tollgate.yaml

Exit codes: 0 done, 1 failed, 2 wrong command line, 3 not the expected decision, 64 wrong config";

pub(super) const RUN: &str = "\
Example:
  tollgate run --config /etc/tollgate/tollgate.yaml --log-format json

SIGTERM answers what is in flight, then stops";

pub(super) const CHECK: &str = "\
Examples:
  tollgate check --config tollgate.yaml
  tollgate check --config tollgate.yaml --expanded > expanded.yaml

Warnings do not change the exit code; any error does (64)";

pub(super) const EXPLAIN: &str = "\
Examples:
  tollgate explain --config tollgate.yaml --url https://api.acme.example/admin/x --token-file token.jwt
  tollgate explain --config tollgate.yaml --method POST --url https://api.acme.example/v1/x --expect 401
  tollgate explain --config tollgate.yaml --url https://api.acme.example/ --token-file - --offline --jwks keys.json
  tollgate explain --config tollgate.yaml --decision 3b1j0q8r5k2m0007

Exit code 1 where the decision is not in the audit trail";

pub(super) const TEST: &str = "\
Examples:
  tollgate test --config tollgate.yaml
  tollgate test --config tollgate.yaml --junit results.xml

with, in tollgate.yaml:
  tests:
    - { as: anonymous, request: GET https://api.acme.example/admin/x, expect: 401 }

Exit code 3 where a decision is not the one written there";

pub(super) const REPLAY: &str = "\
Examples:
  tollgate replay --log /var/log/tollgate/audit.jsonl --with new.yaml
  tollgate replay --log haproxy.log haproxy.log.1 --with new.yaml --expect-same --json

Limits are left out. What a log does not hold (claims; in HAProxy's log also scopes and the kind of credential) is not guessed
at: requests that depend on it are counted by themselves";

pub(super) const GRANT: &str = "\
Examples:
  tollgate grant --config tollgate.yaml alice ops 30m --reason incident-4711
  tollgate grant --config tollgate.yaml alice ops 2h --issuer acme --by carol --reason on-call

It ends by itself. Exit code 0 means that Redis has it";

pub(super) const GRANTS: &str = "\
Examples:
  tollgate grants --config tollgate.yaml list --json
  tollgate grants --config tollgate.yaml revoke 3f2a9c0014d7e8b1";

pub(super) const HAPROXY: &str = "\
Examples:
  tollgate haproxy --config tollgate.yaml --for 3.2 --out haproxy
  tollgate haproxy --config tollgate.yaml --for 2.6

A file that is there and differs is left as it is, with exit code 1, unless --force stands. Nothing else is needed to boot:
  haproxy -c -f haproxy/haproxy.cfg";

pub(super) const REVOKE: &str = "\
Examples:
  tollgate revoke --config tollgate.yaml token --token-file token.jwt
  tollgate revoke --config tollgate.yaml subject acme 0b1a6f4e-7d0c-4b5e
  tollgate revoke --config tollgate.yaml session acme 8d2a11c7 --for 12h
  tollgate revoke --config tollgate.yaml issuer https://login.acme.example --for 1d
  tollgate revoke --config tollgate.yaml list --json
  tollgate revoke --config tollgate.yaml undo 3f2a9c0014d7e8b1

Exit code 0 means that Redis has it. Whatever can still get new tokens (a refresh token, a session at the provider) must
be ended there too";

pub(super) const API_KEY: &str = "\
Example:
  tollgate api-key new --file partners.keys --user alice --group ops --expires 90d

with, in tollgate.yaml:
  api_keys:
    partners: { file: partners.keys }
  groups:
    ops: [\"partners:ops\"]";

pub(super) const API_KEY_NEW: &str = "\
Examples:
  tollgate api-key new --file partners.keys --user alice --group ops --group dev --expires 90d
  tollgate api-key new --user ci --scope deploy --expires 2027-01-01

The key is sent as X-API-Key. A running agent knows it within two seconds, and a removed one no more";

pub(super) const API_KEY_LIST: &str = "\
Example:
  tollgate api-key list --file partners.keys";

pub(super) const AUDIT: &str = "\
Examples:
  tollgate audit verify /var/log/tollgate/audit.jsonl
  tollgate audit export --file /var/log/tollgate/audit.jsonl --from 30d --user alice --format csv > alice.csv";

pub(super) const AUDIT_VERIFY: &str = "\
Examples:
  tollgate audit verify /var/log/tollgate/audit.jsonl --key-file chain.key
  tollgate audit verify old/audit.jsonl --json

Exit code 1 where anything is wrong";

pub(super) const AUDIT_EXPORT: &str = "\
Examples:
  tollgate audit export --file audit.jsonl --from 2027-01-01 --to 2027-04-01 --format csv > quarter.csv
  tollgate audit export --file audit.jsonl --user alice --hash-key-file audit.key

What was written, and whether the trail is whole, is said on standard error";

pub(super) const TOP: &str = "\
Examples:
  tollgate top --config tollgate.yaml
  tollgate top --admin unix:/run/tollgate/admin.sock
  tollgate top --admin tcp:10.0.0.2:9003 --token-file admin.token --once
  tollgate top --json

Keys: tab and arrows or 1 to 5 for another page, s for another order, q to end. An agent looks at its decisions only while
it is asked, so the first counts are there a moment later";

pub(super) const DOCTOR: &str = "\
Examples:
  tollgate doctor /etc/haproxy/haproxy.cfg
  tollgate doctor haproxy.cfg --config tollgate.yaml --json
  tollgate doctor base.cfg site.cfg --deadline 100ms --haproxy /opt/haproxy/sbin/haproxy

Exit code 1 where anything is found. What is meant to be so, a comment says, on the line or above it:
  # doctor: stats-open is meant: behind a firewall";

pub(super) const DEV_IDP: &str = "\
Example:
  tollgate dev-idp --listen 127.0.0.1:9400

with, in tollgate.yaml:
  issuers:
    dev: { issuer: \"http://127.0.0.1:9400\", insecure: true, audiences: [https://api.example] }

It signs what anyone asks it to sign; never use it for anything but tests";

pub(super) const COMPLETIONS: &str = "\
Example:
  tollgate completions bash > /etc/bash_completion.d/tollgate";
