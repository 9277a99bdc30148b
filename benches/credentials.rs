//! Callers without a token: a key of a hundred thousand, and a certificate that is known, or is not.

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;

use criterion::Criterion;
use tollgate::clock::Clock;
use tollgate::config::api_keys;
use tollgate::identity::api_key::{self, NewKey};
use tollgate::identity::settings::{ApiKey, CertificateSettings, ClaimPath, FileStamp, KeyFile, Settings};
use tollgate::identity::{Accepted, Answers, CredentialKind, Groups, Identified, Identities};
use tollgate::request::{Certificate, Request};
use tollgate::trace::Trace;

pub(crate) fn entry(made: &NewKey, sha256: [u8; 32]) -> ApiKey {
    ApiKey {
        prefix: made.prefix,
        sha256,
        user: "alice".to_owned(),
        groups: vec!["ops".to_owned()],
        scopes: Vec::new(),
        expires_at_s: Some(4_000_000_000),
        note: None,
    }
}

/// A stage with these keys.
pub(crate) fn with_keys(keys: Vec<ApiKey>) -> Identities {
    let file = KeyFile {
        name: "partners".into(),
        path: Path::new("partners.keys").to_owned(),
        stamp: FileStamp::default(),
        digest: [0; 32],
        keys,
    };
    let certificates = vec![CertificateSettings {
        name: "fleet".into(),
        require: Vec::new(),
        user: ClaimPath::parse("subject.CN").unwrap(),
        strip: String::new(),
        email: None,
        display_name: None,
        groups: vec![ClaimPath::parse("subject.OU").unwrap()],
    }];
    let settings = Settings { api_keys: vec![file], certificates, ..Settings::default() };
    let groups = Groups::new([("ops", vec![("partners", "ops"), ("fleet", "ops")])]).unwrap();
    Identities::new(settings, Arc::new(groups), None).unwrap()
}

pub(crate) fn identify(
    identities: &Identities,
    request: &Request<'_>,
    accepted: &Accepted,
    clock: &Clock,
) -> Identified {
    identities.identify(request, accepted, &Answers::default(), clock.now(), &mut Trace::off())
}

pub(crate) fn credentials(criterion: &mut Criterion) {
    let clock = Clock::system();
    let accepted = Accepted::new([CredentialKind::ApiKey, CredentialKind::Certificate]);
    let made: Vec<NewKey> = (0..100_000).map(|_| api_key::make().unwrap()).collect();
    let keys: Vec<ApiKey> = made.iter().map(|made| entry(made, made.sha256)).collect();
    let text: String = keys.iter().map(|key| api_keys::entry(key, "")).collect();
    let identities = with_keys(keys);
    let mut group = criterion.benchmark_group("api key");
    let mut cycle = made.iter().cycle();
    group.bench_function("known, of 100,000", |bencher| {
        bencher.iter(|| {
            let key = cycle.next().map(|made| made.text.as_bytes());
            let request = Request { api_key: key, ..Request::default() };
            let identified = identify(&identities, black_box(&request), &accepted, &clock);
            assert!(matches!(identified, Identified::Known(_)));
        });
    });
    let unknown = api_key::make().unwrap();
    group.bench_function("unknown", |bencher| {
        let request = Request { api_key: Some(unknown.text.as_bytes()), ..Request::default() };
        bencher.iter(|| identify(&identities, black_box(&request), &accepted, &clock));
    });
    group.sample_size(10).bench_function("read a file of 100,000", |bencher| {
        bencher.iter(|| api_keys::parse(black_box(&text), Path::new("partners.keys")).unwrap());
    });
    group.finish();

    let mut group = criterion.benchmark_group("certificate");
    let ders: Vec<Vec<u8>> = (0..20_000)
        .map(|index| {
            let mut params = rcgen::CertificateParams::new(["device.acme.example".to_owned()]).unwrap();
            params.distinguished_name.push(rcgen::DnType::CommonName, format!("device {index}"));
            params.distinguished_name.push(rcgen::DnType::OrganizationalUnitName, "ops");
            params
        })
        .scan(rcgen::KeyPair::generate().unwrap(), |key, params| Some(params.self_signed(key).unwrap().der().to_vec()))
        .collect();
    let request = |der| {
        let certificate = Certificate { used: true, verify: Some(0), der: Some(der), ..Certificate::default() };
        Request { certificate, ..Request::default() }
    };
    let find = |der| {
        let identified = identify(&identities, black_box(&request(der)), &accepted, &clock);
        assert!(matches!(identified, Identified::Known(_)));
    };
    group.bench_function("known", |bencher| bencher.iter(|| find(&ders[0])));
    let mut cycle = ders.iter().cycle();
    group.bench_function("read anew", |bencher| bencher.iter(|| find(cycle.next().unwrap())));
    group.finish();
}
