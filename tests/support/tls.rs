//! Certificates of the test's own, and a TLS client that says whether its session was a resumed one.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, DnValue, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType,
};
use rustls::HandshakeKind;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A CA.
pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
    certificate: rcgen::Certificate,
}

/// A certificate with its key.
pub struct Owned {
    pub der: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
    pem: String,
}

/// What a certificate says, and for how long.
pub struct Says<'a> {
    pub common_name: &'a str,
    pub units: &'a [&'a str],
    pub uris: &'a [&'a str],
    pub emails: &'a [&'a str],
    /// From this many seconds before now.
    pub since_s: i64,
    /// To this many after.
    pub for_s: i64,
}

impl Default for Says<'_> {
    fn default() -> Self {
        Says { common_name: "somebody", units: &[], uris: &[], emails: &[], since_s: 60, for_s: 3600 }
    }
}

impl Owned {
    /// The certificate and its key.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// What a token that is bound to it has as `cnf` (RFC 8705, section 3.1).
    pub fn cnf(&self) -> Value {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &self.der);
        json!({ "x5t#S256": URL_SAFE_NO_PAD.encode(digest) })
    }
}

impl Ca {
    pub fn new(name: &str) -> Ca {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Ca { issuer: Issuer::new(params, key), certificate }
    }

    pub fn pem(&self) -> String {
        self.certificate.pem()
    }

    /// A client's certificate.
    pub fn client(&self, says: &Says<'_>) -> Owned {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, DnValue::Utf8String(says.common_name.to_owned()));
        for (index, unit) in says.units.iter().enumerate() {
            // rcgen keeps one value of each kind, and takes this for another kind.
            let kind =
                if index == 0 { DnType::OrganizationalUnitName } else { DnType::CustomDnType(vec![2, 5, 4, 11]) };
            params.distinguished_name.push(kind, *unit);
        }
        let uris = says.uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap()));
        let emails = says.emails.iter().map(|email| SanType::Rfc822Name((*email).try_into().unwrap()));
        params.subject_alt_names = uris.chain(emails).collect();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(params, says.since_s, says.for_s)
    }

    /// A server's, for `localhost`.
    pub fn server(&self) -> Owned {
        let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(params, 60, 3600)
    }

    /// A server's for another name or another time: seconds before now, and after.
    pub fn server_says(&self, name: &str, since_s: i64, for_s: i64) -> Owned {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(params, since_s, for_s)
    }

    fn sign(&self, mut params: CertificateParams, since_s: i64, for_s: i64) -> Owned {
        let now = std::time::SystemTime::now();
        let at = |seconds: i64| {
            let by = Duration::from_secs(seconds.unsigned_abs());
            if seconds < 0 { now - by } else { now + by }
        };
        params.not_before = at(-since_s).into();
        params.not_after = at(for_s).into();
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let pem = format!("{}{}", certificate.pem(), key.serialize_pem());
        let der = certificate.der().clone();
        Owned { der, key: PrivatePkcs8KeyDer::from(key.serialize_der()).into(), pem }
    }
}

/// What HAProxy reads: its own certificate, and the CA of clients.
pub struct Files {
    pub server: PathBuf,
    pub clients: PathBuf,
    _folder: TempDir,
}

impl Files {
    pub fn new(server: &Owned, clients: &Ca) -> Files {
        let folder = super::folder();
        let [server_file, clients_file] = ["server.pem", "clients.pem"].map(|name| folder.path().join(name));
        std::fs::write(&server_file, &server.pem).unwrap();
        std::fs::write(&clients_file, clients.pem()).unwrap();
        Files { server: server_file, clients: clients_file, _folder: folder }
    }
}

/// A client that remembers its sessions, as a browser does, and makes a new connection for each request.
#[derive(Clone)]
pub struct Client(Arc<rustls::ClientConfig>);

/// What came of one request.
#[derive(Debug)]
pub struct Reply {
    pub resumed: bool,
    pub status: u16,
    pub body: Value,
}

impl Reply {
    /// The reason in the problem body.
    pub fn reason(&self) -> &str {
        self.body["reason"].as_str().unwrap_or_default()
    }

    /// All values of a header field that the application saw.
    pub fn seen(&self, name: &str) -> Vec<&str> {
        let pairs = self.body["headers"].as_array().unwrap_or_else(|| panic!("no answer of the application: {self:?}"));
        pairs.iter().filter(|pair| pair[0] == name).map(|pair| pair[1].as_str().unwrap()).collect()
    }
}

impl Client {
    pub fn new(server: &Ca, own: Option<&Owned>, version: &'static rustls::SupportedProtocolVersion) -> Client {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(server.certificate.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider).with_protocol_versions(&[version]).unwrap();
        let config = config.with_root_certificates(roots);
        Client(Arc::new(match own {
            Some(own) => config.with_client_auth_cert(vec![own.der.clone()], own.key.clone_key()).unwrap(),
            None => config.with_no_client_auth(),
        }))
    }

    /// One GET; the error is TLS's or the connection's.
    pub async fn get(&self, port: u16, path: &str) -> Result<Reply, String> {
        self.get_with(port, path, "").await
    }

    /// The same as the bearer of `token`.
    pub async fn get_as(&self, token: &str, port: u16, path: &str) -> Result<Reply, String> {
        self.get_with(port, path, &format!("Authorization: Bearer {token}\r\n")).await
    }

    async fn get_with(&self, port: u16, path: &str, fields: &str) -> Result<Reply, String> {
        let config = Arc::clone(&self.0);
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{fields}Connection: close\r\n\r\n");
        let get = move || get(config, port, &request).map_err(|error| error.to_string());
        tokio::task::spawn_blocking(get).await.unwrap()
    }
}

fn get(config: Arc<rustls::ClientConfig>, port: u16, request: &str) -> std::io::Result<Reply> {
    let mut connection = rustls::ClientConnection::new(config, "localhost".try_into().unwrap()).unwrap();
    let mut socket = TcpStream::connect(("127.0.0.1", port))?;
    socket.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut stream = rustls::Stream::new(&mut connection, &mut socket);
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        // A close without a goodbye.
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof && !answer.is_empty() => {}
        read => {
            read?;
        }
    }
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(|| std::io::Error::other("no answer"))?;
    Ok(Reply {
        resumed: connection.handshake_kind() == Some(HandshakeKind::Resumed),
        status: head.split(' ').nth(1).unwrap().parse().unwrap(),
        body: serde_json::from_str(body).unwrap_or(Value::String(body.to_owned())),
    })
}
