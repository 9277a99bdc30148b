//! Whether the time that an API key takes says how near it is to one that there is.
//!
//! After Reparaz, Balasch and Verbauwhede, "Dude, is my code constant time?" (2017): two classes of input that differ in
//! the secret part only, measured in random order, and Welch's t over the times of each. Beyond 4.5 the classes can be told
//! apart. A caller cannot choose a digest, so the classes are made from the other side: of the same keys, half are kept
//! with a digest that is wrong in its first byte, half with one that is wrong in its last, and in a second table the
//! other way round, so that where a key lies in a table says nothing about its class.

use std::hint::black_box;
use std::time::Instant;

use criterion::Criterion;
use tollgate::clock::Clock;
use tollgate::identity::api_key::{self, NewKey};
use tollgate::identity::{Accepted, CredentialKind, Identities};
use tollgate::request::Request;

use crate::credentials::{entry, identify, with_keys};

const MEASUREMENTS: usize = 1_000_000;
const KEYS: usize = 256;
const BEYOND: f64 = 4.5;

pub(crate) fn api_keys(_: &mut Criterion) {
    let clock = Clock::by_hand(1_800_000_000);
    let accepted = Accepted::new([CredentialKind::ApiKey]);
    let made: Vec<NewKey> = (0..KEYS).map(|_| api_key::make().unwrap()).collect();
    let classes: Vec<bool> = (0..KEYS).map(|_| fastrand::bool()).collect();
    let table = |turned: bool| -> Identities {
        with_keys(
            made.iter()
                .zip(&classes)
                .map(|(made, class)| {
                    let mut sha256 = made.sha256;
                    sha256[if *class ^ turned { 31 } else { 0 }] ^= 1;
                    entry(made, sha256)
                })
                .collect(),
        )
    };
    let tables = [table(false), table(true)];
    let ask = |which: usize, key: &NewKey| {
        let request = Request { api_key: Some(key.text.as_bytes()), ..Request::default() };
        let asked = Instant::now();
        black_box(identify(&tables[which], black_box(&request), &accepted, &clock));
        asked.elapsed().as_nanos() as f64
    };
    let draw = || {
        let (key, which) = (fastrand::usize(..KEYS), fastrand::usize(..2));
        (classes[key] ^ (which == 1), ask(which, &made[key]))
    };
    report("first byte against last", draw);

    // The same for a prefix that there is and one that there is not. A prefix is no secret, and a hash table need not take
    // the same time; this says how far off it is.
    let others: Vec<NewKey> = (0..KEYS).map(|_| api_key::make().unwrap()).collect();
    report("known prefix against unknown", || {
        let (known, key) = (fastrand::bool(), fastrand::usize(..KEYS));
        (known, ask(0, if known { &made[key] } else { &others[key] }))
    });
}

fn report(what: &str, mut draw: impl FnMut() -> (bool, f64)) {
    for _ in 0..MEASUREMENTS / 10 {
        draw();
    }
    let mut all: Vec<(bool, f64)> = (0..MEASUREMENTS).map(|_| draw()).collect();
    // What an interrupt hit says nothing about the code.
    all.sort_by(|a, b| a.1.total_cmp(&b.1));
    all.truncate(MEASUREMENTS / 100 * 95);
    let of = |class: bool| {
        let times: Vec<f64> = all.iter().filter(|(of, _)| *of == class).map(|(_, time)| *time).collect();
        let count = times.len() as f64;
        let mean = times.iter().sum::<f64>() / count;
        let variance = times.iter().map(|time| (time - mean).powi(2)).sum::<f64>() / (count - 1.0);
        (mean, variance / count)
    };
    let ((mean, error), (other_mean, other_error)) = (of(true), of(false));
    let t = (mean - other_mean) / (error + other_error).sqrt();
    let verdict = if t.abs() < BEYOND { "cannot be told apart" } else { "can be told apart" };
    println!(
        "constant time/{what}: t = {t:+.2} over {MEASUREMENTS} ({mean:.1} ns against {other_mean:.1} ns): {verdict}"
    );
}
