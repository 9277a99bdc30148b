//! How the number of rules shows in a decision: the last of so many, by host and path, for anyone.

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;

use bytes::BytesMut;
use criterion::{BenchmarkId, Criterion};
use tollgate::clock::Clock;
use tollgate::config;
use tollgate::decision::Decision;
use tollgate::identity::Identities;
use tollgate::limit::Counters;
use tollgate::pipeline::{DecisionIds, Pipeline, Step};
use tollgate::spop::{Messages, TypedData, engine};

/// What `when` costs: none of it, an ordinary one, and the most that `check` lets stand.
pub(crate) fn expressions(criterion: &mut Criterion) {
    let items = ["'x'"; 256].join(",");
    let slow = "^/[ab]*a[ab]{60}d?c$";
    let (long, patterned) = (format!("/{}", "x".repeat(1000)), format!("/{}", "ab".repeat(500)));
    let mut group = criterion.benchmark_group("when");
    for (name, when, path) in [
        ("none", None, "/x"),
        ("ordinary", Some("path.startsWith('/x') && method in ['GET', 'HEAD']".to_owned()), "/x"),
        ("a list of 256", Some(format!("!(path in [{items}])")), &long),
        ("the most steps", Some(format!("[{}].all(x, {})", items, ["x != path"; 9].join("&&"))), &long),
        ("six patterns", Some(["!path.matches('"; 6].map(|call| format!("{call}{slow}')")).join("&&")), &patterned),
    ] {
        let allow =
            when.map_or("anyone".to_owned(), |when| format!("{{ anyone: true, when: {} }}", serde_json::json!(when)));
        let yaml = format!("rules:\n- {{ name: r, path: /**, allow: {allow} }}\n");
        let config = config::parse(&yaml, Path::new("tollgate.yaml")).unwrap_or_else(|errors| panic!("{errors}"));
        let decide = decider(config, "a.example", path);
        assert_eq!(decide().rule.as_deref(), Some("r"));
        assert_eq!(decide().verdict().name(), "allow", "{name}");
        group.bench_function(name, |bencher| bencher.iter(|| black_box(decide())));
    }
}

/// Decides one request again and again.
fn decider(config: config::Config, host: &str, path: &str) -> impl Fn() -> Decision {
    let pipeline = Arc::new(Pipeline {
        identities: Identities::new(config.identity, config.groups, None).unwrap(),
        policy: config.policy,
        counters: Arc::new(Counters::new(&config.counters).unwrap()),
        ids: Arc::new(DecisionIds::new(7)),
        deadline: config.spop.deadline,
        version: config.version,
        audited: false,
    });
    let mut payload = BytesMut::new();
    let arguments = [
        ("method", TypedData::Str(b"GET")),
        ("host", TypedData::Str(host.as_bytes())),
        ("path", TypedData::Str(path.as_bytes())),
    ];
    engine::request_payload(&arguments, &mut payload);
    let clock = Clock::system();
    move || {
        let messages = Messages::decode(&payload).unwrap();
        match pipeline.decide(black_box(&messages), clock.now()) {
            Step::Done(decision) => decision,
            Step::Wait(_) | Step::Noted => panic!("nothing here waits"),
        }
    }
}

/// A hundred paths for each host; every other host's are wildcards.
pub(crate) fn rules(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("rules");
    for count in [1, 10, 100, 1000, 10_000] {
        let mut yaml = "rules:\n".to_owned();
        for n in 0..count {
            let (site, path) = (n / 100, n % 100);
            let wildcard = if site % 2 == 0 { "" } else { "*." };
            yaml += &format!(
                "- {{ name: r{n}, host: \"{wildcard}h{site}.example\", path: /v1/p{path}/**, allow: anyone }}\n"
            );
        }
        let config = config::parse(&yaml, Path::new("tollgate.yaml")).unwrap();
        let last = count - 1;
        let (host, path) = (format!("a.h{}.example", last / 100), format!("/v1/p{}/x", last % 100));
        let host = if last / 100 % 2 == 0 { &host[2..] } else { &host };
        let decide = decider(config, host, &path);
        assert_eq!(decide().rule.as_deref(), Some(&*format!("r{last}")));
        group.bench_function(BenchmarkId::from_parameter(count), |bencher| bencher.iter(|| black_box(decide())));
    }
}
