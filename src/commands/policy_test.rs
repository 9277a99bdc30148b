//! `tollgate test`: the tests that a config holds.

use std::fmt::Write as _;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use tollgate::clock::Clock;
use tollgate::config::flags::TestArgs;
use tollgate::config::{self, PolicyTest, TestCaller};
use tollgate::explain::{self, Explanation, Question, Shown};
use tollgate::identity::Assumed;
use tollgate::pipeline::Pipeline;
use url::Url;

use super::inspect::pipeline;
use super::{Failure, failed};

/// Runs the tests that the config holds.
pub(super) async fn test(flags: &TestArgs) -> Result<ExitCode, Failure> {
    let file = &flags.config.config;
    let mut config = config::load(file)?;
    let tests = std::mem::take(&mut config.tests);
    // Policy is tested, not the store.
    config.counters.redis = None;
    config.identity.revocations = None;
    config.identity.grants = None;
    let pipeline = pipeline(config)?;
    let mut out = std::io::stdout().lock();
    let mut results = Vec::new();
    for test in &tests {
        let result = Outcome::of(test, &run(&pipeline, test)?);
        let name = format!("line {}: {} {}", test.line, test.method, test.url);
        match &result.failure {
            None => writeln!(out, "ok      {name}: {}", test.expect),
            Some(failure) => writeln!(out, "FAILED  {name}: {failure}"),
        }
        .map_err(failed)?;
        results.push(result);
    }
    let failures = results.iter().filter(|result| result.failure.is_some()).count();
    writeln!(out, "{} passed, {failures} failed", tests.len() - failures).map_err(failed)?;
    if let Some(path) = &flags.junit {
        let written = std::fs::write(path, junit(file, &results, failures));
        written.map_err(|error| Failure::text(format!("cannot write {}: {error}", path.display())))?;
    }
    Ok(if failures == 0 { ExitCode::SUCCESS } else { ExitCode::from(3) })
}

/// What came of a test.
struct Outcome<'a> {
    test: &'a PolicyTest,
    /// What was expected, and what was decided instead.
    failure: Option<String>,
}

impl<'a> Outcome<'a> {
    fn of(test: &'a PolicyTest, explanation: &Explanation) -> Outcome<'a> {
        let Explanation { verdict, status, reason, rule, .. } = explanation;
        let by = if rule.is_empty() { String::new() } else { format!(", rule `{rule}`") };
        let failure = (!explanation.is(&test.expect.to_string()))
            .then(|| format!("expected {}, decided {verdict} {status} ({reason}{by})", test.expect));
        Outcome { test, failure }
    }
}

fn run(pipeline: &Pipeline, test: &PolicyTest) -> Result<Explanation, Failure> {
    let now = match test.at_s {
        None => Clock::system().now(),
        Some(at_s) => Clock::by_hand(u64::try_from(at_s).unwrap_or(0)).now(),
    };
    let caller = match &test.caller {
        TestCaller::Anonymous => Ok(pipeline.identities.anonymous()),
        TestCaller::Identity { issuer, groups, scopes, user, claims } => {
            let assumed =
                Assumed { user: user.clone(), groups: groups.clone(), scopes: scopes.clone(), claims: claims.clone() };
            let caller = pipeline.identities.assume(issuer, &assumed, now);
            caller.ok_or_else(|| Failure::text(format!("line {}: there is no issuer `{issuer}`", test.line)))?
        }
    };
    let url = Url::parse(&test.url).map_err(|error| Failure::text(format!("line {}: {error}", test.line)))?;
    let question =
        Question { method: test.method.clone(), url, typed: test.url.clone(), shown: Shown::default(), src: test.src };
    Ok(explain::rehearse(pipeline, &question, caller, now))
}

/// JUnit's XML, as far as CI servers agree on it (the Ant task's, which has no schema of its own). Four elements, which no
/// library makes shorter.
fn junit(file: &Path, results: &[Outcome<'_>], failures: usize) -> String {
    let file = escape(&file.display().to_string());
    let count = results.len();
    let mut xml = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites name=\"tollgate\" tests=\"{count}\" failures=\"{failures}\" errors=\"0\">\n  \
         <testsuite name=\"{file}\" tests=\"{count}\" failures=\"{failures}\" errors=\"0\" skipped=\"0\">\n"
    );
    for Outcome { test, failure } in results {
        let who = match &test.caller {
            TestCaller::Anonymous => "anonymous".to_owned(),
            TestCaller::Identity { issuer, user, .. } => match user {
                Some(user) => format!("{user} of {issuer}"),
                None => format!("somebody of {issuer}"),
            },
        };
        let name = escape(&format!("line {}: {} {} as {who}: {}", test.line, test.method, test.url, test.expect));
        // Writing to a String cannot fail.
        let _ =
            write!(xml, "    <testcase classname=\"{file}\" name=\"{name}\" file=\"{file}\" line=\"{}\"", test.line);
        let _ = match failure {
            None => writeln!(xml, "/>"),
            Some(failure) => {
                let failure = escape(failure);
                writeln!(
                    xml,
                    ">\n      <failure type=\"decision\" message=\"{failure}\">{failure}</failure>\n    </testcase>"
                )
            }
        };
    }
    xml + "  </testsuite>\n</testsuites>\n"
}

/// For text and for values between double quotes (XML 1.0, sections 2.2 and 2.4).
fn escape(text: &str) -> String {
    let mut escaped = String::new();
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\t' | '\n' | '\r' => escaped.push(' '),
            // No document may hold them, in whatever form.
            '\0'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::escape;

    #[test]
    fn no_text_leaves_its_place_in_the_document() {
        assert_eq!(escape("a\"b<c>&\u{0}\u{1b}\n\u{e9}"), "a&quot;b&lt;c&gt;&amp;\u{fffd}\u{fffd} \u{e9}");
    }
}
