//! What an operator sees: log lines and metrics. The only file that knows metric names.

use std::fmt::Write as _;
use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, text};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::decision::{Decision, LOG_TARGET, Reason, Summary};
use crate::top::Top;

/// Log lines for people or for machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One readable line an event.
    Text,
    /// One JSON object an event.
    Json,
}

/// Keeps the log's writer alive; what is still queued is written when it is dropped.
#[derive(Debug)]
pub struct LogGuard {
    _worker: WorkerGuard,
    dropped: ErrorCounter,
}

/// Sends log lines to standard error from a thread of its own: a full disk or a stopped reader costs lines, which are
/// counted, and never a decision.
pub fn init_log(format: LogFormat, directives: &str) -> Result<LogGuard, LogError> {
    // 8,192 lines of half a kilobyte are 4 MiB at most.
    const LINES_MAX: usize = 8192;
    let filter = EnvFilter::try_new(directives)
        .map_err(|source| LogError::Directives { directives: directives.to_owned(), source })?;
    let colour = std::io::stderr().is_terminal();
    let (writer, worker) =
        NonBlockingBuilder::default().lossy(true).buffered_lines_limit(LINES_MAX).finish(std::io::stderr());
    let dropped = writer.error_counter();
    let registry = tracing_subscriber::registry().with(filter);
    std::panic::set_hook(Box::new(log_panic));
    let layer = tracing_subscriber::fmt::layer().with_writer(writer).with_ansi(colour);
    match format {
        LogFormat::Text => registry.with(layer.compact()).try_init(),
        LogFormat::Json => registry.with(layer.json().flatten_event(true)).try_init(),
    }
    .map_err(|source| LogError::Installed { source })?;
    Ok(LogGuard { _worker: worker, dropped })
}

/// One line for a panic, through the log: standard error itself may be blocked. A message that was put together at run
/// time may hold what a caller sent, and stays out.
fn log_panic(panic: &std::panic::PanicHookInfo<'_>) {
    let message = panic.payload().downcast_ref::<&'static str>().copied().unwrap_or("(withheld)");
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    tracing::error!(place, message, "a panic");
}

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// `--log` is not a list of directives.
    #[error("`{directives}` is no log filter; expected something like `info` or `tollgate=debug,info`")]
    Directives {
        /// As given.
        directives: String,
        /// What is wrong with it.
        source: tracing_subscriber::filter::ParseError,
    },
    /// There is one already.
    #[error("a log is installed already")]
    Installed {
        /// What said so.
        source: tracing_subscriber::util::TryInitError,
    },
}

/// Counts what happens. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Telemetry(Arc<Metrics>);

#[derive(Debug)]
struct Metrics {
    decisions: Family<DecisionLabels, Counter>,
    shadows: Family<DecisionLabels, Counter>,
    limits: Family<LimitLabels, Counter>,
    latency: Histogram,
    trimmed: Counter,
    panics: Counter,
    late: Counter,
    protocol_errors: Counter,
    connections: Gauge,
    connections_total: Counter,
    connections_refused: Counter,
    connections_timed_out: Family<TimedOutLabels, Counter>,
    buffered: Gauge,
    reload_ok: Gauge,
    reloads: Counter,
    top: Top,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DecisionLabels {
    verdict: &'static str,
    reason: &'static str,
    // Rules come from the config, so there are as many of these as rules, whatever callers send.
    rule: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LimitLabels {
    // As many of these as limits, whatever callers send.
    limit: Arc<str>,
    shadow: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TimedOutLabels {
    phase: &'static str,
}

/// What a connection was closed for waiting on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimedOut {
    /// The peer's HELLO.
    Hello,
    /// The rest of a frame.
    Frame,
    /// The peer's reading of its ACKs.
    Write,
    /// A question, while others waited for a place.
    Rest,
}

impl Default for Telemetry {
    fn default() -> Telemetry {
        Telemetry(Arc::new(Metrics {
            decisions: Family::default(),
            shadows: Family::default(),
            limits: Family::default(),
            // 10 µs to 164 ms by doubling: the deadline of 40 ms lies well inside.
            latency: Histogram::new(exponential_buckets(10e-6, 2.0, 15)),
            trimmed: Counter::default(),
            panics: Counter::default(),
            late: Counter::default(),
            protocol_errors: Counter::default(),
            connections: Gauge::default(),
            connections_total: Counter::default(),
            connections_refused: Counter::default(),
            connections_timed_out: Family::default(),
            buffered: Gauge::default(),
            reload_ok: {
                let ok = Gauge::default();
                ok.set(1);
                ok
            },
            reloads: Counter::default(),
            top: Top::default(),
        }))
    }
}

impl Telemetry {
    /// A decision left: counts it and writes its line.
    pub fn decided(&self, decision: &Decision, latency: Duration) {
        let labels = DecisionLabels {
            verdict: decision.verdict().name(),
            reason: decision.reason.code(),
            rule: decision.rule.clone().unwrap_or_else(|| Arc::from("")),
        };
        self.0.decisions.get_or_create(&labels).inc();
        self.0.latency.observe(latency.as_secs_f64());
        let mut shadow = String::new();
        for shadowed in decision.shadows.iter().flatten() {
            let reason = shadowed.refusal.clone().map_or(Reason::Allowed, Reason::Refused);
            let (verdict, rule) = (reason.verdict().name(), Arc::clone(&shadowed.rule));
            let _ = write!(shadow, "{}{rule}={}", if shadow.is_empty() { "" } else { "," }, reason.code());
            self.0.shadows.get_or_create(&DecisionLabels { verdict, reason: reason.code(), rule }).inc();
        }
        for limit in &decision.budget.shadowed {
            let limit = Arc::clone(&limit.name);
            let _ = write!(shadow, "{}limit:{limit}=limit_exceeded", if shadow.is_empty() { "" } else { "," });
            self.0.limits.get_or_create(&LimitLabels { limit, shadow: "true" }).inc();
        }
        if let Some(limit) = &decision.limit {
            self.0.limits.get_or_create(&LimitLabels { limit: Arc::clone(limit), shadow: "false" }).inc();
        }
        let Some(summary) = &decision.summary else { return };
        let identity = &decision.identity;
        tracing::info!(
            target: LOG_TARGET,
            decision_id = decision.id.as_str(),
            verdict = labels.verdict,
            reason = labels.reason,
            rule = &*labels.rule,
            limit = decision.limit.as_deref().unwrap_or_default(),
            // Line separators and the like are in order in a name, and not in a line of a log.
            user = Summary::printable(identity.user.as_bytes()),
            issuer = &*identity.issuer_name,
            groups = Summary::printable(identity.groups_joined.as_bytes()),
            credential = identity.credential.name(),
            token = summary.token,
            method = summary.method,
            host = summary.host,
            path = summary.path,
            src = summary.src,
            request_id = summary.request_id,
            problem = summary.problem.as_deref().unwrap_or_default(),
            degraded = decision.degraded,
            shadow,
            latency_us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX),
            "decision"
        );
    }

    /// Who asks most.
    pub fn top(&self) -> &Top {
        &self.0.top
    }

    /// Variables had no room in an ACK.
    pub fn trimmed(&self) {
        self.0.trimmed.inc();
    }

    /// A decision panicked and was caught.
    pub fn panicked(&self) {
        self.0.panics.inc();
    }

    /// A decision was not made in time.
    pub fn late(&self) {
        self.0.late.inc();
    }

    /// A peer broke the protocol.
    pub fn protocol_error(&self) {
        self.0.protocol_errors.inc();
    }

    /// A connection came; it is counted until the value is dropped.
    pub fn connected(&self) -> Connected {
        self.0.connections.inc();
        self.0.connections_total.inc();
        Connected(self.0.connections.clone())
    }

    /// A peer was not let in.
    pub fn connection_refused(&self) {
        self.0.connections_refused.inc();
    }

    /// A peer kept the agent waiting for too long.
    pub fn timed_out(&self, what: TimedOut) {
        let phase = match what {
            TimedOut::Hello => "hello",
            TimedOut::Frame => "frame",
            TimedOut::Write => "write",
            TimedOut::Rest => "rest",
        };
        self.0.connections_timed_out.get_or_create(&TimedOutLabels { phase }).inc();
    }

    /// The number that says what all connections hold.
    pub fn buffered(&self) -> Buffered {
        Buffered(self.0.buffered.clone())
    }

    /// The config was read again.
    pub fn reloaded(&self, ok: bool) {
        self.0.reloads.inc();
        self.0.reload_ok.set(i64::from(ok));
    }

    /// Everything in OpenMetrics text; `snapshot` is what others count, as of now.
    pub fn render(&self, snapshot: Snapshot) -> String {
        let metrics = &*self.0;
        let mut registry = Registry::with_prefix("tollgate");
        registry.register("decisions", "Decisions by verdict, reason and rule", metrics.decisions.clone());
        registry.register("shadow_decisions", "What shadow rules would have decided", metrics.shadows.clone());
        registry.register("limits_exceeded", "Requests that a limit refused, or would have", metrics.limits.clone());
        registry.register(
            "decision_duration_seconds",
            "From the NOTIFY's last byte to its ACK being ready",
            metrics.latency.clone(),
        );
        registry.register("acks_trimmed", "ACKs that had no room for every variable", metrics.trimmed.clone());
        registry.register("panics", "Decisions that panicked; each got an error verdict", metrics.panics.clone());
        registry.register("decisions_late", "Decisions that passed their deadline", metrics.late.clone());
        registry.register("protocol_errors", "Connections ended for breaking SPOP", metrics.protocol_errors.clone());
        registry.register("connections", "Open SPOP connections", metrics.connections.clone());
        registry.register("connections_opened", "SPOP connections opened", metrics.connections_total.clone());
        registry.register("connections_refused", "Peers outside spop.allow_from", metrics.connections_refused.clone());
        registry.register(
            "connections_timed_out",
            "SPOP connections closed because the peer owed a HELLO, the rest of a frame or the reading of its ACKs",
            metrics.connections_timed_out.clone(),
        );
        registry.register(
            "connections_buffered_bytes",
            "What all SPOP connections hold beyond 8 KiB each, bounded by spop.max_buffered",
            metrics.buffered.clone(),
        );
        registry.register("config_reloads", "Times the config was read again", metrics.reloads.clone());
        registry.register(
            "config_last_reload_ok",
            "1 unless the last reload was refused and the old config stayed",
            metrics.reload_ok.clone(),
        );
        registry.register_collector(Box::new(snapshot));
        let mut out = String::new();
        // Writing to a String cannot fail.
        let _ = text::encode(&mut out, &registry);
        out
    }
}

/// One open connection.
#[derive(Debug)]
pub struct Connected(Gauge<i64, AtomicI64>);

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Bytes that all connections hold, as one sum.
#[derive(Clone, Debug)]
pub struct Buffered(Gauge<i64, AtomicI64>);

impl Buffered {
    /// One of the summands changes.
    pub fn change(&self, from: usize, to: usize) {
        // Sizes in memory are far below 2^63.
        self.0.inc_by(to as i64 - from as i64);
    }

    /// The sum.
    pub fn bytes(&self) -> usize {
        usize::try_from(self.0.get()).unwrap_or(0)
    }
}

/// What other modules count themselves, read when somebody asks.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Each issuer.
    pub issuers: Vec<IssuerSnapshot>,
    /// Each issuer that is asked about tokens.
    pub introspection: Vec<IntrospectionSnapshot>,
    /// Each directory that is asked for groups.
    pub directories: Vec<DirectorySnapshot>,
    /// Whether names and passwords can be tried, where they are.
    pub passwords_up: Option<bool>,
    /// The shared counters, where there are any.
    pub store: Option<StoreSnapshot>,
    /// Groups granted for a time, where they can be.
    pub grants: Option<u64>,
    /// The audit trail, where there is one.
    pub audit: Option<AuditSnapshot>,
    /// The revocations, where there is a Redis for them.
    pub revocations: Option<RevocationsSnapshot>,
    /// Counters in this process's memory.
    pub memory_counters: u64,
    /// Counters that were forgotten before they were full again, for want of memory.
    pub memory_counters_evicted: u64,
    /// What responses made known and Redis never heard of: places given back, costs.
    pub settlements_lost: u64,
    /// Verified tokens in the cache.
    pub tokens_cached: u64,
    /// Each file of API keys.
    pub key_files: Vec<KeyFileSnapshot>,
    /// Client certificates whose owners are known.
    pub certificates_known: u64,
    /// Log lines dropped.
    pub log_lines_dropped: u64,
    /// Background tasks that panicked and were begun again.
    pub tasks_restarted: u64,
}

/// One issuer's keys.
#[derive(Clone, Debug)]
pub struct IssuerSnapshot {
    /// The config's name for it.
    pub name: String,
    /// Usable keys.
    pub keys: u64,
    /// Age of the key set in seconds; `None` before the first.
    pub age_s: Option<u64>,
    /// Fetches tried.
    pub fetches: u64,
    /// Fetches that failed.
    pub failures: u64,
    /// The largest `iat` less now of recent tokens, in seconds; `None` where there were none.
    pub iat_skew_s: Option<i64>,
}

/// How asking one issuer about tokens goes.
#[derive(Clone, Debug)]
pub struct IntrospectionSnapshot {
    /// The config's name for it.
    pub name: String,
    /// Whether it answers.
    pub answering: bool,
    /// Questions asked.
    pub asked: u64,
    /// Those without an answer.
    pub failed: u64,
    /// Those not asked because too many were under way, or strangers had asked too often.
    pub no_place: u64,
    /// Requests whose token was known.
    pub hits: u64,
    /// Good tokens that are known.
    pub known: u64,
}

/// How asking one directory for groups goes.
#[derive(Clone, Debug)]
pub struct DirectorySnapshot {
    /// The config's name for it.
    pub name: String,
    /// People whose groups are known, or asked for.
    pub people: u64,
    /// Seconds since it last answered; for a file, since it last changed.
    pub age_s: Option<u64>,
    /// Questions that have ended.
    pub asked: u64,
    /// Those without an answer.
    pub failed: u64,
    /// Those not asked because too many waited.
    pub dropped: u64,
}

/// One file of API keys.
#[derive(Clone, Debug)]
pub struct KeyFileSnapshot {
    /// The config's name for it.
    pub name: String,
    /// Keys in force.
    pub keys: u64,
    /// Whether they are those that are in it now.
    pub is_current: bool,
}

/// The shared counters.
#[derive(Clone, Copy, Debug)]
pub struct StoreSnapshot {
    /// Whether it answers.
    pub reachable: bool,
    /// How often it stopped answering.
    pub episodes: u64,
}

/// The audit trail.
#[derive(Clone, Copy, Debug)]
pub struct AuditSnapshot {
    /// Whether its lines are written.
    pub up: bool,
    /// Lines written.
    pub lines: u64,
    /// Lines dropped.
    pub dropped: u64,
    /// Allows left out because the config asks for a sample.
    pub sampled_out: u64,
    /// Lines that wait.
    pub queued: u64,
    /// The number of the last line.
    pub seq: u64,
}

/// The revocations.
#[derive(Clone, Copy, Debug)]
pub struct RevocationsSnapshot {
    /// How many are known.
    pub entries: u64,
    /// Since Redis last said that they are all; `None` before it ever did.
    pub age_s: Option<u64>,
    /// Whether Redis pushes them.
    pub listening: bool,
}

impl LogGuard {
    /// Lines that were dropped because nobody read them.
    pub fn lines_dropped(&self) -> u64 {
        self.dropped.dropped_lines() as u64
    }

    /// A way to ask that outlives the borrow.
    pub fn dropped(&self) -> ErrorCounter {
        self.dropped.clone()
    }
}

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let gauge = |value: u64| ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
        type Value = fn(&IssuerSnapshot) -> Option<u64>;
        let of_issuers: [(&str, &str, Value); 3] = [
            ("issuer_ready", "1 where the issuer has keys", |issuer| Some(u64::from(issuer.keys > 0))),
            ("issuer_keys", "Usable keys of the issuer", |issuer| Some(issuer.keys)),
            ("issuer_keys_age_seconds", "Since the keys were fetched", |issuer| issuer.age_s),
        ];
        for (name, help, value) in of_issuers {
            let probe = gauge(0);
            let mut family = encoder.encode_descriptor(name, help, None, probe.metric_type())?;
            for issuer in &self.issuers {
                let Some(value) = value(issuer) else { continue };
                gauge(value).encode(family.encode_family(&[("issuer", issuer.name.as_str())])?)?;
            }
        }
        let help = "Largest iat less now of tokens verified in the last minutes: the issuer's clock less ours";
        let kind = ConstGauge::<i64>::new(0).metric_type();
        let mut family = encoder.encode_descriptor("issuer_iat_skew_seconds", help, None, kind)?;
        for issuer in &self.issuers {
            let Some(skew_s) = issuer.iat_skew_s else { continue };
            ConstGauge::new(skew_s).encode(family.encode_family(&[("issuer", issuer.name.as_str())])?)?;
        }
        type Count = fn(&IssuerSnapshot) -> u64;
        let counted: [(&str, &str, Count); 2] = [
            ("issuer_key_fetches", "Key set fetches tried", |issuer| issuer.fetches),
            ("issuer_key_fetch_failures", "Key set fetches that failed", |issuer| issuer.failures),
        ];
        for (name, help, value) in counted {
            let probe = ConstCounter::new(0u64);
            let mut family = encoder.encode_descriptor(name, help, None, probe.metric_type())?;
            for issuer in &self.issuers {
                let labels = [("issuer", issuer.name.as_str())];
                ConstCounter::new(value(issuer)).encode(family.encode_family(&labels)?)?;
            }
        }
        self.introspection(&mut encoder)?;
        self.directories(&mut encoder)?;
        type OfFile = fn(&KeyFileSnapshot) -> u64;
        let of_files: [(&str, &str, OfFile); 2] = [
            ("api_keys", "API keys in force", |file| file.keys),
            (
                "api_keys_current",
                "1 unless the file of keys as it is now was refused and an earlier version is in force",
                |file| u64::from(file.is_current),
            ),
        ];
        for (name, help, value) in of_files {
            let probe = gauge(0);
            let mut family = encoder.encode_descriptor(name, help, None, probe.metric_type())?;
            for file in &self.key_files {
                gauge(value(file)).encode(family.encode_family(&[("file", file.name.as_str())])?)?;
            }
        }
        if let Some(store) = self.store {
            let up = gauge(u64::from(store.reachable));
            up.encode(encoder.encode_descriptor("store_up", "1 while Redis answers", None, up.metric_type())?)?;
            let episodes = ConstCounter::new(store.episodes);
            let help = "Times Redis stopped answering";
            episodes.encode(encoder.encode_descriptor("store_outages", help, None, episodes.metric_type())?)?;
        }
        if let Some(grants) = self.grants.map(gauge) {
            let help = "Groups that are granted for a time";
            grants.encode(encoder.encode_descriptor("grants", help, None, grants.metric_type())?)?;
        }

        if let Some(audit) = self.audit {
            for (name, help, value) in [
                ("audit_up", "1 while the audit trail is written and drops nothing", u64::from(audit.up)),
                ("audit_queued", "Lines that wait to be written to the audit trail", audit.queued),
                ("audit_seq", "Number of the last line of the audit trail", audit.seq),
            ] {
                let value = gauge(value);
                value.encode(encoder.encode_descriptor(name, help, None, value.metric_type())?)?;
            }
            for (name, help, value) in [
                ("audit_lines", "Lines written to the audit trail", audit.lines),
                ("audit_dropped", "Lines dropped because the audit trail had no room", audit.dropped),
                ("audit_sampled_out", "Allows left out of the audit trail by sample_allows", audit.sampled_out),
            ] {
                let value: ConstCounter<u64> = ConstCounter::new(value);
                value.encode(encoder.encode_descriptor(name, help, None, value.metric_type())?)?;
            }
        }
        if let Some(revocations) = self.revocations {
            for (name, help, value) in [
                ("revocations", "Revocations in force", Some(revocations.entries)),
                ("revocations_age_seconds", "Since Redis last said that these are all", revocations.age_s),
                ("revocations_pushed", "1 while Redis pushes revocations", Some(u64::from(revocations.listening))),
            ] {
                let Some(value) = value.map(gauge) else { continue };
                value.encode(encoder.encode_descriptor(name, help, None, value.metric_type())?)?;
            }
        }
        for (name, help, value) in [
            ("memory_counters", "Limit counters in memory", self.memory_counters),
            ("tokens_cached", "Verified tokens in the cache", self.tokens_cached),
            ("certificates_known", "Client certificates whose owners are known", self.certificates_known),
        ] {
            let value = gauge(value);
            value.encode(encoder.encode_descriptor(name, help, None, value.metric_type())?)?;
        }
        for (name, help, value) in [
            (
                "memory_counters_evicted",
                "Limit counters forgotten before they were full again, for want of memory",
                self.memory_counters_evicted,
            ),
            (
                "settlements_lost",
                "Places given back and costs of responses that Redis never heard of",
                self.settlements_lost,
            ),
            ("log_lines_dropped", "Log lines dropped because nobody read them", self.log_lines_dropped),
            ("tasks_restarted", "Background tasks that panicked and were begun again", self.tasks_restarted),
        ] {
            let value: ConstCounter<u64> = ConstCounter::new(value);
            value.encode(encoder.encode_descriptor(name, help, None, value.metric_type())?)?;
        }
        Ok(())
    }
}

impl Snapshot {
    /// Only where there is a directory.
    fn directories(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        if let Some(up) = self.passwords_up {
            let up = ConstGauge::new(i64::from(up));
            let help = "1 while names and passwords can be tried against their directory";
            up.encode(encoder.encode_descriptor("passwords_up", help, None, up.metric_type())?)?;
        }
        if self.directories.is_empty() {
            return Ok(());
        }
        type Value = fn(&DirectorySnapshot) -> Option<u64>;
        let gauges: [(&str, &str, Value); 2] = [
            ("directory_people", "People whose groups are known, or asked for", |directory| Some(directory.people)),
            ("directory_age_seconds", "Seconds since the directory last answered", |directory| directory.age_s),
        ];
        for (name, help, value) in gauges {
            let probe = ConstGauge::new(0i64);
            let mut family = encoder.encode_descriptor(name, help, None, probe.metric_type())?;
            for directory in &self.directories {
                // Until the first answer there is no age.
                let Some(value) = value(directory) else { continue };
                let value = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
                value.encode(family.encode_family(&[("directory", directory.name.as_str())])?)?;
            }
        }
        let counters: [(&str, &str, Value); 3] = [
            ("directory_questions", "Questions about a person's groups that have ended", |directory| {
                Some(directory.asked)
            }),
            ("directory_failures", "Those that brought no answer", |directory| Some(directory.failed)),
            ("directory_dropped", "Questions not asked: too many waited", |directory| Some(directory.dropped)),
        ];
        for (name, help, value) in counters {
            let probe = ConstCounter::new(0u64);
            let mut family = encoder.encode_descriptor(name, help, None, probe.metric_type())?;
            for directory in &self.directories {
                let labels = [("directory", directory.name.as_str())];
                ConstCounter::new(value(directory).unwrap_or(0)).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }

    /// Only where an issuer is asked about tokens: most are not.
    fn introspection(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        if self.introspection.is_empty() {
            return Ok(());
        }
        type Value = fn(&IntrospectionSnapshot) -> u64;
        let gauges: [(&str, &str, Value); 2] = [
            ("introspection_up", "1 while the issuer answers about tokens", |issuer| u64::from(issuer.answering)),
            ("introspection_tokens_cached", "Good tokens that are known", |issuer| issuer.known),
        ];
        for (name, help, value) in gauges {
            let probe = ConstGauge::new(0i64);
            let mut family = encoder.encode_descriptor(name, help, None, probe.metric_type())?;
            for issuer in &self.introspection {
                let value = ConstGauge::new(i64::try_from(value(issuer)).unwrap_or(i64::MAX));
                value.encode(family.encode_family(&[("issuer", issuer.name.as_str())])?)?;
            }
        }
        let counters: [(&str, &str, Value); 4] = [
            ("introspection_calls", "Tokens that the issuer was asked about", |issuer| issuer.asked),
            ("introspection_failures", "Questions that had no answer", |issuer| issuer.failed),
            ("introspection_cache_hits", "Requests whose token was known", |issuer| issuer.hits),
            (
                "introspection_refused",
                "Questions not asked: too many were under way, or strangers asked too often",
                |issuer| issuer.no_place,
            ),
        ];
        for (name, help, value) in counters {
            let probe = ConstCounter::new(0u64);
            let mut family = encoder.encode_descriptor(name, help, None, probe.metric_type())?;
            for issuer in &self.introspection {
                let labels = [("issuer", issuer.name.as_str())];
                ConstCounter::new(value(issuer)).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_issuers_clock_is_shown_either_way_and_left_out_where_unknown() {
        let issuer = |name: &str, iat_skew_s| IssuerSnapshot {
            name: name.to_owned(),
            keys: 1,
            age_s: None,
            fetches: 0,
            failures: 0,
            iat_skew_s,
        };
        let issuers = vec![issuer("ahead", Some(7)), issuer("behind", Some(-300)), issuer("quiet", None)];
        let text = Telemetry::default().render(Snapshot { issuers, ..Snapshot::default() });
        let shown: Vec<_> = text.lines().filter(|line| line.starts_with("tollgate_issuer_iat_skew_seconds{")).collect();
        assert_eq!(
            shown,
            [
                "tollgate_issuer_iat_skew_seconds{issuer=\"ahead\"} 7",
                "tollgate_issuer_iat_skew_seconds{issuer=\"behind\"} -300"
            ]
        );
    }
}
