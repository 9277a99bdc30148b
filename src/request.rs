//! What HAProxy told us about one HTTP request, as domain values.
//!
//! Everything borrows from the NOTIFY frame; a decision that must wait keeps a copy of the frame's bytes and reads the
//! request again from there. Nothing in here was taken from a header that names another host, path or address: the
//! values come from HAProxy's own parser, as SPOE arguments.

use std::borrow::Cow;
use std::net::IpAddr;

/// One HTTP request. An absent argument (NULL, or not sent) is `None`.
#[derive(Clone, Debug, Default)]
pub struct Request<'a> {
    /// The method as sent, case-sensitive (RFC 9110, section 9.1).
    pub method: &'a str,
    /// Lower-cased, without port and trailing dot; empty where HAProxy sent none.
    pub host: Cow<'a, str>,
    /// The port that stands after the host, where one does; 0 where what stands there is none. It is the client's word
    /// for how it came, and no part of what policy looks at.
    pub port: Option<u16>,
    /// The path as sent, percent-encoding and all, without the query. Policy reads it through `policy::path`.
    pub path: &'a [u8],
    /// The query without its `?`.
    pub query: Option<&'a [u8]>,
    /// The client's address; an IPv4-mapped IPv6 address is given as IPv4.
    pub src: Option<IpAddr>,
    /// The client's port.
    pub src_port: Option<u16>,
    /// Whether the client came over TLS.
    pub ssl: bool,
    /// The one `Authorization` field value.
    pub authorization: Option<&'a [u8]>,
    /// The session cookie's value.
    pub session: Option<&'a [u8]>,
    /// The `X-API-Key` field value.
    pub api_key: Option<&'a [u8]>,
    /// The `DPoP` field value (RFC 9449).
    pub dpop: Option<&'a [u8]>,
    /// The `Accept` field value.
    pub accept: Option<&'a [u8]>,
    /// HAProxy's `unique-id`, which ties the log lines of both together.
    pub id: Option<&'a [u8]>,
    /// The client certificate, as HAProxy saw it.
    pub certificate: Certificate<'a>,
}

/// The client certificate of the TLS connection.
#[derive(Clone, Copy, Debug, Default)]
pub struct Certificate<'a> {
    /// Whether there was one (`ssl_c_used`).
    pub used: bool,
    /// HAProxy's verification result (`ssl_c_verify`); 0 means verified, **and is also 0 without a certificate**.
    pub verify: Option<i64>,
    /// Subject distinguished name.
    pub dn: Option<&'a [u8]>,
    /// The certificate itself, DER.
    pub der: Option<&'a [u8]>,
    /// SHA-256 of the DER, 32 bytes (RFC 8705, `x5t#S256`).
    pub sha256: Option<&'a [u8]>,
}

/// Lower-cased, without port and trailing dot (RFC 9110, section 4.2.3: hosts compare without case); and the port.
pub fn host_and_port(sent: &str) -> (Cow<'_, str>, Option<u16>) {
    let end = if sent.starts_with('[') {
        sent.find(']').map_or(sent.len(), |bracket| bracket + 1)
    } else {
        sent.find(':').unwrap_or(sent.len())
    };
    let (name, port) = sent.split_at_checked(end).unwrap_or((sent, ""));
    let port = match port.strip_prefix(':') {
        // RFC 3986, section 3.2.3: an empty one is as good as none.
        Some("") => None,
        None if port.is_empty() => None,
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => Some(digits.parse().unwrap_or(0)),
        _ => Some(0),
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        (Cow::Owned(name.to_ascii_lowercase()), port)
    } else {
        (Cow::Borrowed(name), port)
    }
}
