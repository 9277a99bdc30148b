//! The command line.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};

use super::policy_tests::Expectation;
use super::values;
use crate::audit::Hash;
use crate::decision::DecisionId;
use crate::haproxy::Line;
use crate::identity::grants::GrantId;
use crate::identity::revocation::Id;
use crate::server::settings::Listen;

/// Identity, group policy and exact rate limits for stock HAProxy, over SPOP.
#[derive(Debug, Parser)]
#[command(name = "tollgate", version, propagate_version = true, arg_required_else_help = true, after_help = EXAMPLES)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the agent that HAProxy asks
    #[command(after_help = RUN)]
    Run(RunArgs),
    /// Check a config: every mistake with its line, then what follows from it
    #[command(after_help = CHECK)]
    Check(CheckArgs),
    /// Decide one request, and show each step that led to the decision; or show a decision of the past
    #[command(after_help = EXPLAIN)]
    Explain(ExplainArgs),
    /// Run the policy tests written in the config's `tests:`
    #[command(after_help = TEST)]
    Test(TestArgs),
    /// Show which past requests another config would decide differently, before it is in force
    #[command(after_help = REPLAY)]
    Replay(ReplayArgs),
    /// Put somebody into a group for a time, in every agent within a second
    #[command(after_help = GRANT)]
    Grant(GrantArgs),
    /// List groups that are granted for a time, and end them
    #[command(after_help = GRANTS)]
    Grants(GrantsArgs),
    /// Write HAProxy's side of a config: a whole haproxy.cfg and spoe-tollgate.conf
    #[command(after_help = HAPROXY)]
    Haproxy(HaproxyArgs),
    /// Revoke a token, a subject, a session or all of an issuer's tokens, for every agent within a second
    #[command(after_help = REVOKE)]
    Revoke(RevokeArgs),
    /// Make API keys, and list those of a file
    #[command(subcommand, after_help = API_KEY)]
    ApiKey(ApiKeyCommand),
    /// Verify the audit trail, or export some of it
    #[command(subcommand, after_help = AUDIT)]
    Audit(AuditCommand),
    /// Find what makes an HAProxy config fail open or spoofable
    #[command(after_help = DOCTOR)]
    Doctor(DoctorArgs),
    /// Run a small OIDC provider for demos and tests, on loopback only
    #[command(after_help = DEV_IDP)]
    DevIdp(DevIdpArgs),
    /// Print completions for a shell
    #[command(after_help = COMPLETIONS)]
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
}

/// Which config.
#[derive(Debug, Args)]
pub struct ConfigArgs {
    /// The config file
    #[arg(short, long, env = "TOLLGATE_CONFIG", value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub config: PathBuf,
}

/// `tollgate run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Which config.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Listen here instead of the config's `spop.listen`: tcp:ADDRESS:PORT or unix:/PATH; may be repeated
    #[arg(long, value_name = "LISTEN", value_parser = listen)]
    pub spop_listen: Vec<Listen>,
    /// Listen here instead of the config's `admin.listen`
    #[arg(long, value_name = "LISTEN", value_parser = listen)]
    pub admin_listen: Option<Listen>,
    /// Read the config again on SIGHUP only, not by itself when a file of it has changed
    #[arg(long)]
    pub no_watch: bool,
    /// How log lines look
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    /// What is logged: a level, or levels by module, such as `info,tollgate::policy=debug`
    #[arg(long, env = "TOLLGATE_LOG_FILTER", value_name = "DIRECTIVES", default_value = "info")]
    pub log: String,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// `tollgate check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Which config.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Print the config with presets expanded and defaults filled in, as YAML that loads again
    #[arg(long)]
    pub expanded: bool,
}

/// `tollgate explain`.
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// Which config.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// The request's method; case counts
    #[arg(long, default_value = "GET")]
    pub method: String,
    /// The request's absolute URL
    #[arg(long, value_hint = ValueHint::Url, required_unless_present = "decision")]
    pub url: Option<String>,
    /// Show this decision of the audit trail instead: `X-Tollgate-Decision` of an answer, `decision_id` of a log
    #[arg(long, value_name = "ID", value_parser = decision_id, conflicts_with_all = PRESENT)]
    pub decision: Option<DecisionId>,
    /// The audit trail to look into, where that is not the config's `audit.file`
    #[arg(long, value_name = "FILE", conflicts_with = "url", value_hint = ValueHint::FilePath)]
    pub audit_file: Option<PathBuf>,
    /// A bearer token. It is seen in the process list: prefer --token-file
    #[arg(long, conflicts_with = "token_file", hide_env_values = true)]
    pub token: Option<String>,
    /// A file with a bearer token; `-` is standard input
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub token_file: Option<PathBuf>,
    /// A file with the whole value of `Authorization`, of whatever scheme: Basic, DPoP
    #[arg(long, value_name = "FILE", conflicts_with_all = ["token", "token_file"], value_hint = ValueHint::FilePath)]
    pub authorization_file: Option<PathBuf>,
    /// A file with a DPoP proof, for this method and URL
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub dpop_file: Option<PathBuf>,
    /// A file with an API key
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub api_key_file: Option<PathBuf>,
    /// A file with the client's certificate, as PEM; it counts as one that HAProxy verified
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub certificate: Option<PathBuf>,
    /// The client's address
    #[arg(long, value_name = "IP", default_value = "127.0.0.1")]
    pub src: IpAddr,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Decide without any network: keys from --jwks, counters empty and in memory
    #[arg(long)]
    pub offline: bool,
    /// The key set to verify with, for every issuer without a `jwks_file`
    #[arg(long, value_name = "FILE", requires = "offline", value_hint = ValueHint::FilePath)]
    pub jwks: Option<PathBuf>,
    /// Exit 3 unless this is the answer: a verdict (allow, challenge, deny, throttle, error) or a status
    #[arg(long, value_name = "VERDICT|STATUS")]
    pub expect: Option<Expectation>,
}

/// `tollgate test`.
#[derive(Debug, Args)]
pub struct TestArgs {
    /// Which config.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Write the results into this file as well, as JUnit XML, for a CI server
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub junit: Option<PathBuf>,
}

/// `tollgate replay`.
#[derive(Debug, Args)]
pub struct ReplayArgs {
    /// A log: the audit trail, the agent's JSON log, or HAProxy's by the shipped files; `-` is standard input
    #[arg(long = "log", required = true, num_args = 1.., value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub logs: Vec<PathBuf>,
    /// The config to decide with
    #[arg(long, value_name = "CONFIG", value_hint = ValueHint::FilePath)]
    pub with: PathBuf,
    /// How many rules of each kind, and users of each rule, are shown
    #[arg(long, value_name = "COUNT", default_value_t = 20)]
    pub top: usize,
    /// Print JSON, with all groups
    #[arg(long)]
    pub json: bool,
    /// Exit 3 where anything would be decided differently
    #[arg(long)]
    pub expect_same: bool,
}

/// `tollgate grant`.
#[derive(Debug, Args)]
pub struct GrantArgs {
    /// Which config: it says where Redis is, and what groups and issuers are called.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Who, by their `user`
    #[arg(value_parser = granted)]
    pub user: String,
    /// Which group of the config's `groups:`
    pub group: String,
    /// For how long, such as 30m; at most the config's `grants.max`
    #[arg(value_name = "DURATION", value_parser = lifetime)]
    pub lifetime: Duration,
    /// What for; it is logged, and listed
    #[arg(long, value_parser = granted)]
    pub reason: String,
    /// The config's name of the issuer that says who they are [default: the only one there is]
    #[arg(long)]
    pub issuer: Option<String>,
    /// Who grants it [default: whoever is signed in at this terminal]
    #[arg(long, value_name = "NAME", value_parser = granted)]
    pub by: Option<String>,
}

/// `tollgate grants`.
#[derive(Debug, Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub struct GrantsArgs {
    /// Which config: it says where Redis is.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// What to do
    #[command(subcommand)]
    pub command: GrantsCommand,
}

/// What `tollgate grants` does.
#[derive(Debug, Subcommand)]
pub enum GrantsCommand {
    /// Show what is granted
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// End a grant before its time
    Revoke {
        /// The grant's name, as `grant` and `grants list` print it
        #[arg(value_name = "ID", value_parser = grant_id)]
        id: GrantId,
    },
}

/// `tollgate haproxy`.
#[derive(Debug, Args)]
pub struct HaproxyArgs {
    /// Which config.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Which line of HAProxy reads the files. What is written for 2.6 is good for every later one too
    #[arg(long = "for", value_name = "LINE", value_parser = haproxy_line())]
    pub line: Line,
    /// The folder to write both files into; made if it is not there. Left out: both are printed
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub out: Option<PathBuf>,
    /// Replace files that differ
    #[arg(long, requires = "out")]
    pub force: bool,
}

/// `tollgate revoke`.
#[derive(Debug, Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub struct RevokeArgs {
    /// Which config: it says where Redis is, and what issuers are called.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// What to revoke, or to look at
    #[command(subcommand)]
    pub command: RevokeCommand,
}

/// What `tollgate revoke` does.
#[derive(Debug, Subcommand)]
pub enum RevokeCommand {
    /// Refuse one token, or one API key, for good
    Token {
        /// A file with it; `-` is standard input. It is not taken from the command line, where others could see it
        #[arg(long, value_name = "FILE", default_value = "-", value_hint = ValueHint::FilePath)]
        token_file: PathBuf,
        /// For how long [default: until it expires, or 30d where it does not say]
        #[arg(long = "for", value_name = "DURATION", value_parser = lifetime)]
        lifetime: Option<Duration>,
    },
    /// Refuse whatever a subject was issued until now; who signs in anew gets in
    Subject {
        /// The config's name of the issuer, or its exact `iss`
        issuer: String,
        /// `sub`; where the source has no subjects (keys, certificates, directories) the user
        subject: String,
        /// For how long, and since when.
        #[command(flatten)]
        span: SpanArgs,
    },
    /// Refuse whatever belongs to a session (`sid`), whenever it was or will be issued
    Session {
        /// The config's name of the issuer, or its exact `iss`
        issuer: String,
        /// `sid`
        session: String,
        /// For how long
        #[arg(long = "for", value_name = "DURATION", default_value = "30d", value_parser = lifetime)]
        lifetime: Duration,
    },
    /// Refuse whatever an issuer issued until now
    Issuer {
        /// The config's name of the issuer, or its exact `iss`
        issuer: String,
        /// For how long, and since when.
        #[command(flatten)]
        span: SpanArgs,
    },
    /// Show what is revoked
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Let in again what a revocation refuses
    Undo {
        /// The revocation's name, as `revoke` and `revoke list` print it
        #[arg(value_name = "ID", value_parser = revocation)]
        id: Id,
    },
}

/// How long a revocation holds, and of what age.
#[derive(Clone, Copy, Debug, Args)]
pub struct SpanArgs {
    /// For how long: longer than any token lives. What does not say when it was issued is refused for all of it
    #[arg(long = "for", value_name = "DURATION", default_value = "30d", value_parser = lifetime)]
    pub lifetime: Duration,
    /// By how much the issuer's clock may be ahead: what it issues for so long after now is refused too
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = skew)]
    pub skew: Duration,
}

/// `tollgate api-key`.
#[derive(Debug, Subcommand)]
pub enum ApiKeyCommand {
    /// Make a key: it is printed once, and only its hash is kept
    #[command(after_help = API_KEY_NEW)]
    New(NewKeyArgs),
    /// List the keys of a file
    #[command(after_help = API_KEY_LIST)]
    List(ListKeysArgs),
}

/// `tollgate api-key new`.
#[derive(Debug, Args)]
pub struct NewKeyArgs {
    /// The file to append it to; made if it is not there. Left out: the entry is printed behind the key
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub file: Option<PathBuf>,
    /// Whom it names
    #[arg(long, value_parser = plain)]
    pub user: String,
    /// A group, as the config's `groups:` has it behind the colon; may be repeated
    #[arg(long, value_parser = plain)]
    pub group: Vec<String>,
    /// A scope; may be repeated
    #[arg(long, value_parser = scope)]
    pub scope: Vec<String>,
    /// When it ends: in `90d`, at `2027-01-01` or `2027-01-01T12:00:00Z` (UTC), or `never`
    #[arg(long, value_name = "WHEN", value_parser = expires)]
    pub expires: Expires,
    /// What people should know about it
    #[arg(long, value_parser = plain)]
    pub note: Option<String>,
}

/// When a key ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expires {
    /// Not by itself.
    Never,
    /// At this second since 1970.
    At(i64),
    /// So long after it was made.
    In(Duration),
}

/// `tollgate api-key list`.
#[derive(Debug, Args)]
pub struct ListKeysArgs {
    /// The file
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub file: PathBuf,
}

/// `tollgate audit`.
#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// Find every line that was edited, removed, put in, moved or repeated
    #[command(after_help = AUDIT_VERIFY)]
    Verify(VerifyArgs),
    /// Write the lines of a period and a user
    #[command(after_help = AUDIT_EXPORT)]
    Export(ExportArgs),
}

/// `tollgate audit verify`.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// The trail: the config's `audit.file`. Files that were rotated out of it are read before it
    #[arg(required = true, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub files: Vec<PathBuf>,
    /// The file of the config's `chain_key`, where it has one
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub key_file: Option<PathBuf>,
    /// A hash known from elsewhere, such as `audit.last.hash` of an earlier /status, that a line must have
    #[arg(long, value_name = "HASH", value_parser = chain_hash)]
    pub expect_last: Option<Hash>,
    /// Print JSON, one line a trail
    #[arg(long)]
    pub json: bool,
}

/// `tollgate doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// haproxy.cfg, or its files in the order in which HAProxy gets them. SPOE files are found by themselves
    #[arg(required = true, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub files: Vec<PathBuf>,
    /// Within which the agent answers [default: that of --config, or 40ms]
    #[arg(long, value_name = "DURATION", value_parser = deadline)]
    pub deadline: Option<Duration>,
    /// The agent's config: for its deadline, and the backends that its rules name
    #[arg(short, long, env = "TOLLGATE_CONFIG", value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub config: Option<PathBuf>,
    /// The HAProxy whose own check runs first; its line is then the one the files are for. `none` runs none
    #[arg(long, value_name = "PROGRAM", value_hint = ValueHint::CommandName)]
    pub haproxy: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `tollgate audit export`.
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// The trail. Files that were rotated out of it are read before it
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub file: PathBuf,
    /// From then on: `2027-01-01`, `2027-01-01T12:00:00Z` (UTC), or `30d` ago
    #[arg(long, value_name = "WHEN", value_parser = when)]
    pub from: Option<When>,
    /// Until just before then
    #[arg(long, value_name = "WHEN", value_parser = when)]
    pub to: Option<When>,
    /// Only what this user or subject asked; without it events of the trail are in as well
    #[arg(long)]
    pub user: Option<String>,
    /// How lines look
    #[arg(long, value_enum, default_value_t = ExportFormat::Jsonl)]
    pub format: ExportFormat,
    /// The file of the config's `chain_key`, where it has one
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub key_file: Option<PathBuf>,
    /// The file of the config's `hash_key`, to find a user by name where names are hashed
    #[arg(long, value_name = "FILE", requires = "user", value_hint = ValueHint::FilePath)]
    pub hash_key_file: Option<PathBuf>,
}

/// How exported lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ExportFormat {
    /// As in the trail.
    Jsonl,
    /// A table.
    Csv,
}

/// A moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// This second since 1970.
    At(i64),
    /// So long before now.
    Ago(Duration),
}

/// `tollgate dev-idp`.
#[derive(Debug, Args)]
pub struct DevIdpArgs {
    /// Where to listen; anything beyond loopback is refused
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:9400")]
    pub listen: SocketAddr,
    /// The issuer it says it is, where that is not http://ADDRESS:PORT
    #[arg(long, value_name = "URL", value_hint = ValueHint::Url)]
    pub issuer: Option<String>,
    /// A YAML file with users, where the built-in ones are not enough
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub users: Option<PathBuf>,
}

/// Lists the lines in the help, in errors and in completions.
fn haproxy_line() -> impl TypedValueParser<Value = Line> {
    let known = PossibleValuesParser::new(Line::ALL.map(Line::name));
    known.try_map(|name| Line::of(&name).ok_or("expected a line of HAProxy, such as 3.2"))
}

fn decision_id(text: &str) -> Result<DecisionId, String> {
    DecisionId::parse(text).ok_or_else(|| "expected the sixteen characters of `decision_id`".to_owned())
}

fn chain_hash(text: &str) -> Result<Hash, String> {
    Hash::parse(text).ok_or_else(|| "expected 64 hex digits in small letters, as `hash` has them".to_owned())
}

fn when(text: &str) -> Result<When, String> {
    let at = values::date(text).map(When::At).or_else(|| values::duration(text).map(When::Ago));
    at.ok_or_else(|| "expected 2027-01-01, 2027-01-01T12:00:00Z (UTC) or 30d".to_owned())
}

/// What a request that is made up has, and a decision of the past has not.
const PRESENT: [&str; 12] = [
    "url",
    "method",
    "token",
    "token_file",
    "authorization_file",
    "dpop_file",
    "api_key_file",
    "certificate",
    "src",
    "offline",
    "jwks",
    "expect",
];

fn lifetime(text: &str) -> Result<Duration, String> {
    let known = values::duration(text).filter(|lifetime| (Duration::from_secs(1)..=LIFETIME_MAX).contains(lifetime));
    known.ok_or_else(|| "expected a duration from 1s to 3650d, such as 12h or 30d".to_owned())
}

/// What a person reads in a log line and in a list.
fn granted(text: &str) -> Result<String, String> {
    const CHARS_MAX: usize = 300;
    plain(text).and_then(|text| match text.chars().count() {
        0..=CHARS_MAX => Ok(text),
        count => Err(format!("expected at most {CHARS_MAX} characters, these are {count}")),
    })
}

fn grant_id(text: &str) -> Result<GrantId, String> {
    GrantId::parse(text).ok_or_else(|| "expected sixteen hex digits, as `tollgate grants list` prints them".to_owned())
}

fn skew(text: &str) -> Result<Duration, String> {
    let known = values::duration(text).filter(|skew| *skew <= SKEW_MAX);
    known.ok_or_else(|| "expected a duration from 0s to 5m, such as 2s".to_owned())
}

fn deadline(text: &str) -> Result<Duration, String> {
    let known = values::duration(text).filter(|deadline| (DEADLINE_MIN..=DEADLINE_MAX).contains(deadline));
    known.ok_or_else(|| "expected a duration from 1ms to 10s, such as 40ms".to_owned())
}

fn revocation(text: &str) -> Result<Id, String> {
    Id::parse(text).ok_or_else(|| "expected sixteen hex digits, as `tollgate revoke list` prints them".to_owned())
}

/// Ten years: longer than what it is about will be of use to anybody.
const LIFETIME_MAX: Duration = Duration::from_secs(3650 * 24 * 3600);

/// As far as an issuer's `leeway` goes.
const SKEW_MAX: Duration = Duration::from_secs(300);

/// What `spop.deadline` may be.
const DEADLINE_MIN: Duration = Duration::from_millis(1);
const DEADLINE_MAX: Duration = Duration::from_secs(10);

fn listen(text: &str) -> Result<Listen, String> {
    Listen::parse(text).ok_or_else(|| "expected tcp:ADDRESS:PORT (an IP address) or unix:/PATH".to_owned())
}

/// What can stand in a file of keys.
fn plain(text: &str) -> Result<String, String> {
    let good = !text.is_empty() && !text.chars().any(char::is_control);
    if good { Ok(text.to_owned()) } else { Err("expected text without control characters".to_owned()) }
}

fn scope(text: &str) -> Result<String, String> {
    let good = super::rules::is_scope(text);
    if good { Ok(text.to_owned()) } else { Err("expected one scope, without spaces and quotes".to_owned()) }
}

fn expires(text: &str) -> Result<Expires, String> {
    match text {
        "never" => Some(Expires::Never),
        _ => values::date(text).map(Expires::At).or_else(|| values::duration(text).map(Expires::In)),
    }
    .ok_or_else(|| "expected 90d, 2027-01-01, 2027-01-01T12:00:00Z (UTC) or never".to_owned())
}

const EXAMPLES: &str = "\
Begin with:
  tollgate check --config tollgate.yaml
  tollgate run --config tollgate.yaml

Exit codes: 0 done, 1 failed, 2 wrong command line, 3 not the expected decision, 64 wrong config";

const RUN: &str = "\
Example:
  tollgate run --config /etc/tollgate/tollgate.yaml --log-format json

SIGTERM answers what is in flight, then stops";

const CHECK: &str = "\
Examples:
  tollgate check --config tollgate.yaml
  tollgate check --config tollgate.yaml --expanded > expanded.yaml

Warnings do not change the exit code; any error does (64)";

const EXPLAIN: &str = "\
Examples:
  tollgate explain --config tollgate.yaml --url https://api.acme.example/admin/x --token-file token.jwt
  tollgate explain --config tollgate.yaml --method POST --url https://api.acme.example/v1/x --expect 401
  tollgate explain --config tollgate.yaml --url https://api.acme.example/ --token-file - --offline --jwks keys.json
  tollgate explain --config tollgate.yaml --decision 3b1j0q8r5k2m0007

Exit code 1 where the decision is not in the audit trail";

const TEST: &str = "\
Examples:
  tollgate test --config tollgate.yaml
  tollgate test --config tollgate.yaml --junit results.xml

with, in tollgate.yaml:
  tests:
    - { as: anonymous, request: GET https://api.acme.example/admin/x, expect: 401 }

Exit code 3 where a decision is not the one written there";

const REPLAY: &str = "\
Examples:
  tollgate replay --log /var/log/tollgate/audit.jsonl --with new.yaml
  tollgate replay --log haproxy.log haproxy.log.1 --with new.yaml --expect-same --json

Limits are left out. What a log does not hold (claims; in HAProxy's log also scopes and the kind of credential) is not guessed
at: requests that depend on it are counted by themselves";

const GRANT: &str = "\
Examples:
  tollgate grant --config tollgate.yaml alice ops 30m --reason incident-4711
  tollgate grant --config tollgate.yaml alice ops 2h --issuer acme --by carol --reason on-call

It ends by itself. Exit code 0 means that Redis has it";

const GRANTS: &str = "\
Examples:
  tollgate grants --config tollgate.yaml list --json
  tollgate grants --config tollgate.yaml revoke 3f2a9c0014d7e8b1";
const HAPROXY: &str = "\
Examples:
  tollgate haproxy --config tollgate.yaml --for 3.2 --out haproxy
  tollgate haproxy --config tollgate.yaml --for 2.6

A file that is there and differs is left as it is, with exit code 1, unless --force stands. Nothing else is needed to boot:
  haproxy -c -f haproxy/haproxy.cfg";

const REVOKE: &str = "\
Examples:
  tollgate revoke --config tollgate.yaml token --token-file token.jwt
  tollgate revoke --config tollgate.yaml subject acme 0b1a6f4e-7d0c-4b5e
  tollgate revoke --config tollgate.yaml session acme 8d2a11c7 --for 12h
  tollgate revoke --config tollgate.yaml issuer https://login.acme.example --for 1d
  tollgate revoke --config tollgate.yaml list --json
  tollgate revoke --config tollgate.yaml undo 3f2a9c0014d7e8b1

Exit code 0 means that Redis has it. Whatever can still get new tokens (a refresh token, a session at the provider) must
be ended there too";
const API_KEY: &str = "\
Example:
  tollgate api-key new --file partners.keys --user alice --group ops --expires 90d

with, in tollgate.yaml:
  api_keys:
    partners: { file: partners.keys }
  groups:
    ops: [\"partners:ops\"]";

const API_KEY_NEW: &str = "\
Examples:
  tollgate api-key new --file partners.keys --user alice --group ops --group dev --expires 90d
  tollgate api-key new --user ci --scope deploy --expires 2027-01-01

The key is sent as X-API-Key. A running agent knows it within two seconds, and a removed one no more";

const API_KEY_LIST: &str = "\
Example:
  tollgate api-key list --file partners.keys";

const AUDIT: &str = "\
Examples:
  tollgate audit verify /var/log/tollgate/audit.jsonl
  tollgate audit export --file /var/log/tollgate/audit.jsonl --from 30d --user alice --format csv > alice.csv";

const AUDIT_VERIFY: &str = "\
Examples:
  tollgate audit verify /var/log/tollgate/audit.jsonl --key-file chain.key
  tollgate audit verify old/audit.jsonl --json

Exit code 1 where anything is wrong";

const AUDIT_EXPORT: &str = "\
Examples:
  tollgate audit export --file audit.jsonl --from 2027-01-01 --to 2027-04-01 --format csv > quarter.csv
  tollgate audit export --file audit.jsonl --user alice --hash-key-file audit.key

What was written, and whether the trail is whole, is said on standard error";

const DOCTOR: &str = "\
Examples:
  tollgate doctor /etc/haproxy/haproxy.cfg
  tollgate doctor haproxy.cfg --config tollgate.yaml --json
  tollgate doctor base.cfg site.cfg --deadline 100ms --haproxy /opt/haproxy/sbin/haproxy

Exit code 1 where anything is found. What is meant to be so, a comment says, on the line or above it:
  # doctor: stats-open is meant: behind a firewall";

const DEV_IDP: &str = "\
Example:
  tollgate dev-idp --listen 127.0.0.1:9400

with, in tollgate.yaml:
  issuers:
    dev: { issuer: \"http://127.0.0.1:9400\", insecure: true, audiences: [https://api.example] }

It signs what anyone asks it to sign; never use it for anything but tests";

const COMPLETIONS: &str = "\
Example:
  tollgate completions bash > /etc/bash_completion.d/tollgate";

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent_and_every_subcommand_has_an_example() {
        Cli::command().debug_assert();
        for command in Cli::command().get_subcommands() {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains(&format!("tollgate {}", command.get_name())), "{}", command.get_name());
        }
    }

    #[test]
    fn examples_of_the_help_parse() {
        fn examples(command: &clap::Command) -> Vec<String> {
            let own = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let lines = own.lines().filter_map(|line| line.trim().strip_prefix("tollgate ").map(str::to_owned));
            lines.chain(command.get_subcommands().flat_map(examples)).collect()
        }
        let examples = examples(&Cli::command());
        for line in &examples {
            let line = line.split(" > ").next().unwrap();
            Cli::try_parse_from(["tollgate"].into_iter().chain(line.split(' ')))
                .unwrap_or_else(|error| panic!("{error}"));
        }
        assert!(examples.len() > 30, "{examples:?}");
    }

    #[test]
    fn a_wrong_command_line_says_what_was_expected() {
        for (line, expected) in [
            ("run --config f --spop-listen 127.0.0.1:9001", "tcp:ADDRESS:PORT"),
            ("explain --config f --url u --expect maybe", "allow, challenge, deny"),
            ("explain --config f --url u --token a --token-file b", "cannot be used with"),
            ("explain --config f --url u --jwks k", "--offline"),
            ("chekc --config f", "check"),
            ("haproxy --config f --for 3.1", "2.6, 2.8, 3.0, 3.2, 3.4"),
            ("haproxy --config f --for 3.2 --force", "--out"),
            ("revoke --config f subject acme", "SUBJECT"),
            ("revoke --config f token eyJ", "unexpected argument"),
            ("revoke --config f issuer acme --for 30", "1s to 3650d"),
            ("revoke --config f issuer acme --for 4000d", "1s to 3650d"),
            ("revoke --config f issuer acme --skew 6m", "0s to 5m"),
            ("revoke --config f session acme s --skew 1s", "unexpected argument"),
            ("revoke --config f undo 12", "sixteen hex digits"),
            ("explain --config f", "--url"),
            ("explain --config f --decision abc", "sixteen characters"),
            ("explain --config f --decision 3b1j0q8r5k2m0007 --url u", "cannot be used with"),
            ("explain --config f --url u --audit-file a", "cannot be used with"),
            ("audit verify", "<FILE>"),
            ("audit verify f --expect-last 00", "64 hex digits"),
            ("audit export --file f --from yesterday", "2027-01-01T12:00:00Z"),
            ("audit export --file f --hash-key-file k", "--user"),
            ("doctor", "<FILE>"),
            ("doctor f --deadline 1m", "1ms to 10s"),
            ("api-key new --user a --expires 1w", "2027-01-01T12:00:00Z"),
            ("api-key new --user a", "--expires"),
            ("api-key new --expires never --user a --scope x,\"y", "one scope"),
        ] {
            let error = Cli::try_parse_from(["tollgate"].into_iter().chain(line.split(' '))).unwrap_err();
            assert!(error.to_string().contains(expected), "{line}: {error}");
        }
    }
}
