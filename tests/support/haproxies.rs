//! The HAProxy lines that `tests/support/haproxies.sh` fetched.

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
    println!("skipped: {test} with HAProxy {line}: {}", reason.trim());
    None
}

/// One test for each line: `each_line! { async fn name(line, program) }` makes a module `name` of tests `haproxy_2_6` and
/// so on, each of which runs the function `name` with the line's name and its program.
#[macro_export]
macro_rules! each_line {
    ($($name:ident),+ $(,)?) => {$(
        mod $name {
            $crate::each_line!(@tests $name, haproxy_2_6 "2.6", haproxy_2_8 "2.8", haproxy_3_0 "3.0", haproxy_3_2 "3.2", haproxy_3_4 "3.4");
        }
    )+};
    (@tests $name:ident, $($test:ident $line:literal),+) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $test() {
            if let Some(program) = $crate::support::haproxies::program($line, stringify!($name)) {
                super::$name($line, &program).await;
            }
        }
    )+};
}
