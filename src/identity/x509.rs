//! A certificate's bytes -> what it says of whom, as claims.
//!
//! The claims are `subject`, `issuer` and `san`, each a map of lists: `{"subject": {"CN": ["alice"], "OU": ["a", "b"]},
//! "san": {"uri": ["spiffe://…"]}}`. Values are taken out of the structure, never out of a printed name, so that a comma,
//! a quote or a `+` inside one is nothing but a letter. A value in an encoding that has several readings is `null`: it is
//! there, and nothing may rest on it.

use serde_json::{Map, Value};
use x509_cert::Certificate;
use x509_cert::der::asn1::{Any, ObjectIdentifier};
use x509_cert::der::{Decode, Tag, Tagged};
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::name::Name;

/// What is read of a certificate. Nothing in it is verified here: HAProxy has done that, or has not.
pub(super) struct Read {
    /// The first second of its validity, in Unix time.
    pub(super) not_before_s: i64,
    /// The last one.
    pub(super) not_after_s: i64,
    /// What it says, as above.
    pub(super) claims: Map<String, Value>,
}

/// Reads one certificate (RFC 5280, section 4.1) in DER, with nothing behind it; `None` where it is none, where it is
/// larger than [`DER_BYTES_MAX`], and where it has two lists of alternative names.
pub(super) fn read(der: &[u8]) -> Option<Read> {
    if der.len() > DER_BYTES_MAX {
        return None;
    }
    let certificate = Certificate::from_der(der).ok()?;
    let signed = certificate.tbs_certificate();
    let alternative = signed.get_extension::<SubjectAltName>().ok()?;
    let mut claims = Map::new();
    claims.insert("subject".to_owned(), name(signed.subject()).into());
    claims.insert("issuer".to_owned(), name(signed.issuer()).into());
    if let Some((_, names)) = alternative {
        claims.insert("san".to_owned(), alternatives(&names.0).into());
    }
    let seconds = |time: x509_cert::time::Time| i64::try_from(time.to_unix_duration().as_secs()).unwrap_or(i64::MAX);
    let validity = signed.validity();
    Some(Read { not_before_s: seconds(validity.not_before), not_after_s: seconds(validity.not_after), claims })
}

/// The name by which the config knows an attribute of `subject` or `issuer`, or else its object identifier.
fn attribute(oid: &ObjectIdentifier) -> String {
    let oid = oid.to_string();
    ATTRIBUTES.iter().find(|(_, known)| *known == oid).map_or(oid, |(name, _)| (*name).to_owned())
}

fn name(name: &Name) -> Map<String, Value> {
    let mut values = Map::new();
    for attribute_and_value in name.iter() {
        put(&mut values, &attribute(&attribute_and_value.oid), text(&attribute_and_value.value));
    }
    values
}

fn alternatives(names: &[GeneralName]) -> Map<String, Value> {
    let mut values = Map::new();
    for name in names {
        match name {
            GeneralName::Rfc822Name(email) => put(&mut values, "email", Some(email.as_str().to_owned())),
            GeneralName::DnsName(host) => put(&mut values, "dns", Some(host.as_str().to_owned())),
            GeneralName::UniformResourceIdentifier(uri) => put(&mut values, "uri", Some(uri.as_str().to_owned())),
            GeneralName::OtherName(other) if other.type_id.to_string() == USER_PRINCIPAL_NAME => {
                put(&mut values, "upn", text(&other.value));
            }
            GeneralName::IpAddress(octets) => {
                let octets = octets.as_bytes();
                let v4 = <[u8; 4]>::try_from(octets).map(std::net::IpAddr::from);
                let address = v4.or_else(|_| <[u8; 16]>::try_from(octets).map(std::net::IpAddr::from));
                put(&mut values, "ip", address.ok().map(|address| address.to_string()));
            }
            GeneralName::OtherName(_)
            | GeneralName::DirectoryName(_)
            | GeneralName::EdiPartyName(_)
            | GeneralName::RegisteredId(_) => {}
        }
    }
    values
}

fn put(values: &mut Map<String, Value>, key: &str, value: Option<String>) {
    let list = values.entry(key).or_insert_with(|| Value::Array(Vec::new()));
    if let Value::Array(list) = list {
        list.push(value.map_or(Value::Null, Value::String));
    }
}

/// A DirectoryString (RFC 5280, section 4.1.2.4), or an IA5String where one stands in its place.
fn text(value: &Any) -> Option<String> {
    let bytes = value.value();
    match value.tag() {
        Tag::Utf8String => String::from_utf8(bytes.to_vec()).ok(),
        // T.61 in the letters that it has in common with ASCII; of the others nobody agrees what they are.
        Tag::PrintableString | Tag::Ia5String | Tag::NumericString | Tag::VisibleString | Tag::TeletexString => {
            bytes.is_ascii().then(|| String::from_utf8(bytes.to_vec()).ok()).flatten()
        }
        // UCS-2: a surrogate, which it does not have, is no letter.
        Tag::BmpString if bytes.len().is_multiple_of(2) => {
            let units = bytes.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
            units.map(|unit| char::from_u32(unit.into())).collect()
        }
        _ => None,
    }
}

/// Real ones have 1 to 3 KiB.
pub(super) const DER_BYTES_MAX: usize = 16 * 1024;

/// The attributes that have a name in the config (RFC 4519, RFC 4514; those of RFC 5280, appendix A.1). Others are named by
/// their object identifier.
pub const ATTRIBUTES: [(&str, &str); 17] = [
    ("CN", "2.5.4.3"),
    ("surname", "2.5.4.4"),
    ("serialNumber", "2.5.4.5"),
    ("C", "2.5.4.6"),
    ("L", "2.5.4.7"),
    ("ST", "2.5.4.8"),
    ("STREET", "2.5.4.9"),
    ("O", "2.5.4.10"),
    ("OU", "2.5.4.11"),
    ("title", "2.5.4.12"),
    ("givenName", "2.5.4.42"),
    ("dnQualifier", "2.5.4.46"),
    ("pseudonym", "2.5.4.65"),
    ("organizationIdentifier", "2.5.4.97"),
    ("UID", "0.9.2342.19200300.100.1.1"),
    ("DC", "0.9.2342.19200300.100.1.25"),
    ("emailAddress", "1.2.840.113549.1.9.1"),
];

/// What `san` has.
pub const ALTERNATIVES: [&str; 5] = ["uri", "email", "dns", "upn", "ip"];

/// Windows' name of an account, in the certificates of smart cards.
const USER_PRINCIPAL_NAME: &str = "1.3.6.1.4.1.311.20.2.3";
