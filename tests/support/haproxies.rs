//! The HAProxy lines that `tests/support/haproxies.sh` fetched.

use std::io::Write;

use super::root;

/// The program of a line; where there is none, says so by the test's name, and gives none.
pub fn program(line: &str, test: &str) -> Option<String> {
    let place = root().join(".haproxy").join(line);
    let program = place.join("haproxy");
    if program.exists() {
        return Some(program.to_str().unwrap().to_owned());
    }
    let reason = std::fs::read_to_string(place.join("missing"));
    let reason = reason.unwrap_or_else(|_| "tests/support/haproxies.sh has not been run".to_owned());
    skipped(&format!("{test} with HAProxy {line}"), reason.trim());
    None
}

/// Names a test that cannot run here. `println!` and `eprintln!` would not do: the test harness keeps what a test prints,
/// and shows it to nobody where the test passes.
pub fn skipped(test: &str, reason: &str) {
    std::io::stderr().write_all(format!("skipped: {test}: {reason}\n").as_bytes()).unwrap();
}

/// One test for each line: `each_line! { async fn name(line, program) }` makes a module `name` of tests `haproxy_2_6` and
/// so on, each of which runs the function `name` with the line's name and its program. HAProxy's timeouts are short, so
/// none of them runs while a test has the machine [`alone`](crate::support::alone); `each_line! { alone name }` are such
/// tests.
#[macro_export]
macro_rules! each_line {
    (alone $($name:ident),+ $(,)?) => { $crate::each_line!(@modules alone, $($name),+); };
    ($($name:ident),+ $(,)?) => { $crate::each_line!(@modules not_alone, $($name),+); };
    (@modules $machine:ident, $($name:ident),+) => {$(
        mod $name {
            $crate::each_line!(@tests $machine, $name, haproxy_2_6 "2.6", haproxy_2_8 "2.8", haproxy_3_0 "3.0", haproxy_3_2 "3.2", haproxy_3_4 "3.4");
        }
    )+};
    (@tests $machine:ident, $name:ident, $($test:ident $line:literal),+) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $test() {
            if let Some(program) = $crate::support::haproxies::program($line, stringify!($name)) {
                let _machine = $crate::support::$machine().await;
                super::$name($line, &program).await;
            }
        }
    )+};
}
