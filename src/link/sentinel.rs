//! Sentinels: who is the master now.

use super::StoreError;
use super::dial::{Dial, Role, Target};
use super::settings::Node;

/// Asks one sentinel after the other until one knows. Each time anew, and on a connection that ends with the answer: it
/// is asked twice a second at most, and only while there is no master to talk to.
///
/// What a sentinel says may be old. Whoever it names is written to before it is used, and a replica refuses that.
pub(super) async fn master(dial: &Dial, sentinels: &[Node], name: &str) -> Result<Target, StoreError> {
    let mut failure = StoreError::Unreachable { reason: "there are no sentinels".to_owned() };
    for sentinel in sentinels {
        let command = redis::cmd("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME").arg(name).to_owned();
        let target = Target::Node(sentinel.clone());
        failure = match dial.ask_once::<Option<(String, u16)>>(&target, Role::Sentinel, &command).await {
            Ok(Some((host, port))) => return Ok(Target::Node(Node { host, port })),
            Ok(None) => StoreError::Unreachable { reason: format!("the sentinel {sentinel} knows no master {name}") },
            Err(error) => StoreError::Unreachable { reason: format!("the sentinel {sentinel}: {error}") },
        };
    }
    Err(failure)
}
