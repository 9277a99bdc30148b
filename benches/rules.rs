//! How the number of rules shows in a decision: the last of so many, by host and path, for anyone.

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;

use bytes::BytesMut;
use criterion::{BenchmarkId, Criterion};
use tollgate::clock::Clock;
use tollgate::config;
use tollgate::identity::Identities;
use tollgate::limit::Counters;
use tollgate::pipeline::{DecisionIds, Pipeline, Step};
use tollgate::spop::{Messages, TypedData, engine};

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
        let pipeline = Arc::new(Pipeline {
            identities: Identities::new(config.identity, config.groups, None).unwrap(),
            policy: config.policy,
            counters: Arc::new(Counters::new(&config.counters).unwrap()),
            ids: Arc::new(DecisionIds::new(7)),
            deadline: config.spop.deadline,
            version: config.version,
            audited: false,
        });
        let last = count - 1;
        let (host, path) = (format!("a.h{}.example", last / 100), format!("/v1/p{}/x", last % 100));
        let host = if last / 100 % 2 == 0 { &host[2..] } else { &host };
        let mut payload = BytesMut::new();
        let arguments = [
            ("method", TypedData::Str(b"GET")),
            ("host", TypedData::Str(host.as_bytes())),
            ("path", TypedData::Str(path.as_bytes())),
        ];
        engine::request_payload(&arguments, &mut payload);
        let messages = Messages::decode(&payload).unwrap();
        let clock = Clock::system();
        let decide = || match pipeline.decide(black_box(&messages), clock.now()) {
            Step::Done(decision) => decision,
            Step::Wait(_) => panic!("nothing here waits"),
        };
        assert_eq!(decide().rule.as_deref(), Some(&*format!("r{last}")));
        group.bench_function(BenchmarkId::from_parameter(count), |bencher| bencher.iter(|| black_box(decide())));
    }
}
