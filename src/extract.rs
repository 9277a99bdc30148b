//! Messages -> Request. The only file that knows argument names.

use std::net::IpAddr;

use crate::request::{Request, host_and_port};
use crate::spop::{Message, Messages, TypedData};

/// Reads the request out of a NOTIFY's messages.
///
/// Arguments are found by name, in any order; unknown ones and unknown messages are ignored, NULL is "absent". A name
/// given twice is refused and not the last one taken: two values are two readings of the same request.
pub fn extract<'a>(messages: &Messages<'a>) -> Result<Request<'a>, Malformed> {
    let mut found = messages.iter().filter(|message| message.name == MESSAGE);
    let message = found.next().ok_or(Malformed::NoRequest)?;
    if found.next().is_some() {
        return Err(Malformed::TwoRequests);
    }
    let mut request = Request::default();
    let mut seen = 0u32;
    let (mut method, mut path) = (None, None);
    for (name, value) in message.arguments() {
        let Some(argument) = Argument::named(name) else { continue };
        let bit = 1 << argument as u32;
        if seen & bit != 0 {
            return Err(Malformed::Twice(argument));
        }
        seen |= bit;
        if value == TypedData::Null {
            continue;
        }
        let wrong = || Malformed::WrongType(argument);
        match argument {
            Argument::Method => method = Some(utf8(value).ok_or_else(wrong)?),
            Argument::Path => path = Some(bytes(value).ok_or_else(wrong)?),
            Argument::Host => (request.host, request.port) = host_and_port(utf8(value).ok_or_else(wrong)?),
            Argument::Query => request.query = Some(bytes(value).ok_or_else(wrong)?),
            Argument::Src => request.src = Some(address(value).ok_or_else(wrong)?),
            Argument::SrcPort => {
                let port = value.as_integer().and_then(|port| u16::try_from(port).ok());
                request.src_port = Some(port.ok_or_else(wrong)?);
            }
            Argument::Ssl => request.ssl = boolean(value).ok_or_else(wrong)?,
            Argument::Authorization => request.authorization = Some(bytes(value).ok_or_else(wrong)?),
            Argument::Session => request.session = Some(bytes(value).ok_or_else(wrong)?),
            Argument::ApiKey => request.api_key = Some(bytes(value).ok_or_else(wrong)?),
            Argument::Dpop => request.dpop = Some(bytes(value).ok_or_else(wrong)?),
            Argument::Accept => request.accept = Some(bytes(value).ok_or_else(wrong)?),
            Argument::Id => request.id = Some(bytes(value).ok_or_else(wrong)?),
            Argument::Cert => request.certificate.sha256 = Some(binary(value).ok_or_else(wrong)?),
            Argument::CertUsed => request.certificate.used = boolean(value).ok_or_else(wrong)?,
            Argument::CertVerify => request.certificate.verify = Some(value.as_integer().ok_or_else(wrong)?),
            Argument::CertDn => request.certificate.dn = Some(bytes(value).ok_or_else(wrong)?),
            Argument::CertDer => request.certificate.der = Some(binary(value).ok_or_else(wrong)?),
        }
    }
    request.method = method.ok_or(Malformed::Missing(Argument::Method))?;
    request.path = path.ok_or(Malformed::Missing(Argument::Path))?;
    Ok(request)
}

/// What HAProxy tells once a response is there: what was owed, and what it cost.
#[derive(Clone, Copy, Debug)]
pub struct Report<'a> {
    /// What the decision on the request gave for it.
    pub receipt: &'a [u8],
    message: Message<'a>,
}

impl Report<'_> {
    /// What a header field of the response says that it cost, by its argument's name; `None` where it is not there or no
    /// number.
    pub fn cost(&self, argument: &str) -> Option<u32> {
        let (_, value) = self.message.arguments().find(|(name, _)| *name == argument.as_bytes())?;
        let text = std::str::from_utf8(bytes(value)?).ok()?.trim_matches([' ', '\t']);
        // A sign, a fraction or a list is no cost.
        text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
    }
}

/// Reads the report out of a NOTIFY's messages; `None` where they hold none, or nothing was owed.
pub fn report<'a>(messages: &Messages<'a>) -> Option<Report<'a>> {
    let message = messages.iter().find(|message| message.name == RESPONSE)?;
    let (_, receipt) = message.arguments().find(|(name, _)| *name == RECEIPT)?;
    Some(Report { receipt: binary(receipt)?, message })
}

/// Whether there is a report among the messages, whatever it holds.
pub fn is_report(messages: &Messages<'_>) -> bool {
    messages.iter().next().is_some_and(|message| message.name == RESPONSE)
}

const RESPONSE: &[u8] = b"response";
const RECEIPT: &[u8] = b"receipt";

/// An argument of message `request`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Argument {
    Method,
    Path,
    Host,
    Query,
    Src,
    SrcPort,
    Ssl,
    Authorization,
    Session,
    ApiKey,
    Dpop,
    Accept,
    Id,
    Cert,
    CertUsed,
    CertVerify,
    CertDn,
    CertDer,
}

impl Argument {
    /// All of them, each with its name in the SPOE config.
    pub const NAMES: [(&'static str, Argument); 18] = [
        ("method", Argument::Method),
        ("path", Argument::Path),
        ("host", Argument::Host),
        ("query", Argument::Query),
        ("src", Argument::Src),
        ("src_port", Argument::SrcPort),
        ("ssl", Argument::Ssl),
        ("authorization", Argument::Authorization),
        ("session", Argument::Session),
        ("api_key", Argument::ApiKey),
        ("dpop", Argument::Dpop),
        ("accept", Argument::Accept),
        ("id", Argument::Id),
        ("cert", Argument::Cert),
        ("cert_used", Argument::CertUsed),
        ("cert_verify", Argument::CertVerify),
        ("cert_dn", Argument::CertDn),
        ("cert_der", Argument::CertDer),
    ];

    fn named(name: &[u8]) -> Option<Argument> {
        Argument::NAMES.iter().find(|(known, _)| known.as_bytes() == name).map(|(_, argument)| *argument)
    }

    fn name(self) -> &'static str {
        Argument::NAMES.iter().find(|(_, argument)| *argument == self).map_or("", |(name, _)| name)
    }
}

/// Why messages are no request. HAProxy's config is wrong then, not its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// No message of that name.
    #[error("there is no message `request`")]
    NoRequest,
    /// More than one.
    #[error("there are two messages `request`")]
    TwoRequests,
    /// A required argument is missing or NULL.
    #[error("argument `{}` is missing", .0.name())]
    Missing(Argument),
    /// An argument came twice.
    #[error("argument `{}` is given twice", .0.name())]
    Twice(Argument),
    /// An argument has another type than its HAProxy sample gives, or is out of its range.
    #[error("argument `{}` has a value of the wrong type", .0.name())]
    WrongType(Argument),
}

const MESSAGE: &[u8] = b"request";

fn bytes(value: TypedData<'_>) -> Option<&[u8]> {
    if let TypedData::Str(bytes) = value { Some(bytes) } else { None }
}

fn binary(value: TypedData<'_>) -> Option<&[u8]> {
    if let TypedData::Bin(bytes) = value { Some(bytes) } else { None }
}

fn utf8(value: TypedData<'_>) -> Option<&str> {
    std::str::from_utf8(bytes(value)?).ok()
}

/// `ssl_fc` and `ssl_c_used` are booleans; a config may also send them through a converter that makes them integers.
fn boolean(value: TypedData<'_>) -> Option<bool> {
    match value {
        TypedData::Bool(value) => Some(value),
        other => other.as_integer().and_then(|number| match number {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }),
    }
}

fn address(value: TypedData<'_>) -> Option<IpAddr> {
    match value {
        TypedData::Ipv4(address) => Some(IpAddr::V4(address)),
        TypedData::Ipv6(address) => Some(IpAddr::V6(address).to_canonical()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;
    use std::net::{Ipv4Addr, Ipv6Addr};

    use bytes::BytesMut;

    use super::*;
    use crate::spop::engine::request_payload;
    use crate::spop::notify::encode_message;

    const METHOD: (&str, TypedData<'_>) = ("method", TypedData::Str(b"GET"));
    const PATH: (&str, TypedData<'_>) = ("path", TypedData::Str(b"/a"));

    #[test]
    fn what_is_no_request_says_why() {
        type Pairs<'a> = &'a [(&'a str, TypedData<'a>)];
        let cases: [(Pairs<'_>, Malformed); 9] = [
            (&[PATH], Malformed::Missing(Argument::Method)),
            (&[METHOD], Malformed::Missing(Argument::Path)),
            (&[METHOD, ("path", TypedData::Null)], Malformed::Missing(Argument::Path)),
            (&[METHOD, PATH, METHOD], Malformed::Twice(Argument::Method)),
            (
                &[METHOD, PATH, ("host", TypedData::Null), ("host", TypedData::Str(b"a"))],
                Malformed::Twice(Argument::Host),
            ),
            (&[METHOD, ("path", TypedData::Bin(b"/"))], Malformed::WrongType(Argument::Path)),
            (&[METHOD, PATH, ("src", TypedData::Str(b"127.0.0.1"))], Malformed::WrongType(Argument::Src)),
            (&[METHOD, PATH, ("src_port", TypedData::Int64(65536))], Malformed::WrongType(Argument::SrcPort)),
            (&[("method", TypedData::Str(&[0xff])), PATH], Malformed::WrongType(Argument::Method)),
        ];
        for (arguments, expected) in cases {
            let mut payload = BytesMut::new();
            request_payload(arguments, &mut payload);
            let messages = Messages::decode(&payload).unwrap();
            assert_eq!(extract(&messages).err(), Some(expected));
        }
    }

    #[test]
    fn other_messages_are_ignored_and_one_request_is_needed() {
        let mut payload = BytesMut::new();
        encode_message("other", &[("method", TypedData::Bool(true))], &mut payload);
        assert_eq!(extract(&Messages::decode(&payload).unwrap()).err(), Some(Malformed::NoRequest));
        request_payload(&[METHOD, PATH, ("x", TypedData::Null)], &mut payload);
        assert_eq!(extract(&Messages::decode(&payload).unwrap()).unwrap().path, b"/a");
        request_payload(&[METHOD, PATH], &mut payload);
        assert_eq!(extract(&Messages::decode(&payload).unwrap()).err(), Some(Malformed::TwoRequests));
    }

    #[test]
    fn hosts_and_addresses_are_brought_to_one_form() {
        for (sent, read, port) in [
            ("API.Acme.Example:8443", "api.acme.example", Some(8443)),
            ("api.acme.example", "api.acme.example", None),
            ("api.acme.example.", "api.acme.example", None),
            ("api.acme.example.:80", "api.acme.example", Some(80)),
            ("api.acme.example:", "api.acme.example", None),
            ("api.acme.example:65536", "api.acme.example", Some(0)),
            ("api.acme.example:+80", "api.acme.example", Some(0)),
            ("api.acme.example:80:80", "api.acme.example", Some(0)),
            ("[::1]:8080", "[::1]", Some(8080)),
            ("[::1]x", "[::1]", Some(0)),
            ("[::1", "[::1", None),
            ("", "", None),
        ] {
            assert_eq!(host_and_port(sent), (Cow::Borrowed(read), port), "{sent}");
        }
        let mapped = Ipv4Addr::LOCALHOST.to_ipv6_mapped();
        assert_eq!(address(TypedData::Ipv6(mapped)), Some(IpAddr::V4(Ipv4Addr::LOCALHOST)));
        assert_eq!(address(TypedData::Ipv6(Ipv6Addr::LOCALHOST)), Some(IpAddr::V6(Ipv6Addr::LOCALHOST)));
    }
}
