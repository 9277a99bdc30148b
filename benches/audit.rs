//! `audit off` and `audit on`: what the audit trail adds to a decision that is made, with its lines going nowhere. A thread
//! makes them meanwhile; where it cannot keep up, what is measured is in part the dropping.

use std::hint::black_box;
use std::path::PathBuf;
use std::time::Duration;

use criterion::Criterion;
use tollgate::audit::{Audit, PPM, Rotation, Settings, Target};
use tollgate::clock::Clock;
use tollgate::pipeline::Step;
use tollgate::spop::Messages;

pub(super) fn audit(criterion: &mut Criterion) {
    let clock = Clock::system();
    for (name, audited) in [("audit off", false), ("audit on", true)] {
        let (pipeline, payloads, _) = super::pipeline(audited);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let messages = Messages::decode(&payloads[0]).unwrap();
        // From here on the token is known.
        if let Step::Wait(decision) = pipeline.decide(&messages, clock.now()) {
            runtime.block_on(decision);
        }
        let audit = Audit::new(clock.clone(), 7);
        if audited {
            let settings = Settings {
                target: Target::File(PathBuf::from("/dev/null")),
                rotation: Rotation { bytes: u64::MAX, every: None, keep: 1 },
                sampled_ppm: PPM,
                hashed: Vec::new(),
                hash_key: None,
                chain_key: None,
                queue: 10_000,
            };
            audit.apply(audit.prepare(Some(&settings)).unwrap(), 0).unwrap();
        }
        criterion.bench_function(name, |bencher| {
            bencher.iter(|| {
                let now = clock.now();
                let Step::Done(decision) = pipeline.decide(black_box(&messages), now) else { panic!("it is known") };
                audit.record(decision, now, Duration::ZERO);
            });
        });
        audit.stop(Duration::from_secs(5));
    }
}
