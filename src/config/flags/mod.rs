//! The command line: each command with its flags. `parse` reads values, `help` has the examples.

mod help;
mod parse;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};

use help::*;
use parse::*;

use super::policy_tests::Expectation;
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
    /// Show live who asks most and who is near a limit: by user, group, rule and limit
    #[command(after_help = TOP)]
    Top(TopArgs),
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

/// Where a running agent's admin side is.
#[derive(Debug, Args)]
pub struct AdminArgs {
    /// The admin side: tcp:ADDRESS:PORT or unix:/PATH [default: the config's, or tcp:127.0.0.1:9003]
    #[arg(long, value_name = "LISTEN", value_parser = listen)]
    pub admin: Option<Listen>,
    /// A file with the token that it asks for [default: the config's `admin.token`, where --admin is left out]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub token_file: Option<PathBuf>,
    /// The agent's config, for both
    #[arg(short, long, env = "TOLLGATE_CONFIG", value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub config: Option<PathBuf>,
}

/// `tollgate top`.
#[derive(Debug, Args)]
pub struct TopArgs {
    /// Which agent.
    #[command(flatten)]
    pub admin: AdminArgs,
    /// Print what is so now, and end; so it is too where the output is no terminal
    #[arg(long)]
    pub once: bool,
    /// Print it as JSON, as the agent says it, and end
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
