//! Tollgate's own server with decisions that a test makes up.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tollgate::audit::Audit;
use tollgate::clock::{Clock, Now};
use tollgate::decision::{Decision, DecisionId, Reason};
use tollgate::identity::Identity;
use tollgate::pipeline::{Decide, Step};
use tollgate::server;
use tollgate::server::settings::{Listen, SpopSettings};
use tollgate::server::socket::Listener;
use tollgate::spop::{Messages, TypedData};
use tollgate::telemetry::{Snapshot, Telemetry};

/// Lets everybody in, as the user whose name is the path, so that an answer shows which question it is for; a path below
/// `/slow` takes 20 ms.
#[derive(Default)]
struct Echo {
    /// The payload of each NOTIFY.
    asked: Mutex<Vec<Vec<u8>>>,
}

impl Decide for Echo {
    fn decide(&self, messages: &Messages<'_>, now: Now) -> Step {
        self.asked.lock().unwrap().push(messages.as_bytes().to_vec());
        let user = text(messages, "path");
        let slow = user.starts_with("/slow");
        let mut identity = Identity::anonymous();
        identity.user = user;
        let decision = Decision::new(DecisionId::new(now.unix_s(), 1, 1), Reason::Allowed, Arc::new(identity));
        if slow {
            return Step::Wait(Box::pin(async {
                tokio::time::sleep(Duration::from_millis(20)).await;
                decision
            }));
        }
        Step::Done(decision)
    }

    fn without_stages(&self, reason: Reason, now: Now) -> Decision {
        Decision::new(DecisionId::new(now.unix_s(), 1, 1), reason, Arc::new(Identity::anonymous()))
    }

    /// Far beyond what a busy machine takes for 20 ms.
    fn deadline(&self) -> Duration {
        Duration::from_millis(400)
    }
}

/// The first string argument of that name.
pub fn text(messages: &Messages<'_>, name: &str) -> String {
    for message in messages.iter() {
        for (argument, value) in message.arguments() {
            if let TypedData::Str(bytes) = value
                && argument == name.as_bytes()
            {
                return String::from_utf8_lossy(bytes).into_owned();
            }
        }
    }
    String::new()
}

/// The running server. It ends with the value.
pub struct Server {
    pub port: u16,
    echo: Arc<Echo>,
    telemetry: Telemetry,
    stop: CancellationToken,
}

impl Server {
    pub async fn start() -> Server {
        let listen = vec![Listen::Tcp("127.0.0.1:0".parse().unwrap())];
        let settings = SpopSettings { listen, ..SpopSettings::default() };
        let listener = Listener::bind(&settings.listen[0]).unwrap();
        let port = listener.local_addr().unwrap().port();
        let (echo, telemetry, stop) = (Arc::<Echo>::default(), Telemetry::default(), CancellationToken::new());
        let decide = Arc::clone(&echo);
        let audit = Audit::new(Clock::system(), 0);
        let serving =
            server::serve(vec![listener], settings, decide, Clock::system(), telemetry.clone(), audit, stop.clone());
        tokio::spawn(serving);
        Server { port, echo, telemetry, stop }
    }

    /// The payloads of the NOTIFYs since the last call.
    pub fn take_asked(&self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.echo.asked.lock().unwrap())
    }

    /// Connections so far, health checks included.
    pub fn connections(&self) -> u64 {
        self.counter("tollgate_connections_opened_total")
    }

    /// A metric without labels.
    pub fn counter(&self, name: &str) -> u64 {
        let text = self.telemetry.render(Snapshot::default());
        let line = text.lines().find_map(|line| line.strip_prefix(name).and_then(|rest| rest.strip_prefix(' ')));
        line.unwrap_or_else(|| panic!("no metric {name}")).parse().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
