//! Everything that is tested from outside a module, in one binary, so that it links once.
//!
//! | module | what it shows |
//! |---|---|
//! | `tidy` | the walls between modules, and what may stand where |
//! | `differential` | tokens by the ten thousand, as another JOSE library reads them |
//! | `decide` | request + token + state -> decision, at the pipeline's boundary |
//! | `spop_server` | the server over real sockets: splitting, pipelining, unix sockets, deadline, panic, drain |
//! | `spop_limits` | the same under attack: slow, silent, deaf, greedy and endless peers |
//! | `harness` | spop-harness, against the agent and against agents that are broken on purpose; `proto-fixtures/` |
//! | `ldap` | names, passwords and groups against a real slapd, and against servers that are broken on purpose |
//! | `protocol` | SPOP as HAProxy 2.6, 2.8, 3.0, 3.2 and 3.4 speak it, with agents good and bad |
//! | `redis_faults` | limits while Redis or the way to it fails, each failure made for real; what callers see |
//! | `audit` | the audit trail of a running agent: crashes, a full disk, reloads, and the commands that read one |
//! | `command_line` | the programs: exit codes, `check`, `explain`, `test`, completions |
//! | `doctor` | what it finds in HAProxy configs: an example with and without each thing, others' configs, the shipped ones |
//! | `end_to_end` | real HAProxy, FastAPI, Redis and OIDC provider, with the files of `haproxy/` as they ship |
//! | `haproxy_files` | `tollgate haproxy`: the shipped files are its output, and every HAProxy line takes it, whatever the policy |
//! | `operating` | the agent's process: descriptors, a blocked log, the admin side under attack, allow-lists |
//! | `reloading` | another config while the agent serves: a thousand under load, broken ones, files that change by themselves |
//! | `redis` | every arrangement of Redis (Sentinel, Cluster, Valkey, TLS, users), and what callers see while it changes |
//! | `replay` | past requests, by three logs, against another policy |
//! | `documents` | README and `haproxy/`: every config in them loads, every table is complete |
//!
//! `support` starts real programs on free ports and stops them; nothing is left running. What is not installed is a
//! failed test that says so: `make test` installs it.

// A test binary exports nothing, so `pub` is what its own modules see.
#![allow(unreachable_pub, missing_docs)]

mod audit;
mod command_line;
mod decide;
mod differential;
mod doctor;
mod documents;
mod end_to_end;
mod haproxy_files;
mod harness;
mod ldap;
mod operating;
mod protocol;
mod redis;
mod redis_faults;
mod reloading;
mod replay;
mod spop_limits;
mod spop_server;
mod support;
mod tidy;
