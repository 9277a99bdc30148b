//! The URL that a proof is for (`htu`), and the one that was asked for, in one spelling.
//!
//! RFC 9449, section 4.3: they are compared without query and fragment, after the normalisation of RFC 3986, sections
//! 6.2.2 and 6.2.3. It is not what URL parsers of browsers do, which read a backslash as a slash and drop tabs.

use crate::request::Request;

/// The URL of `htu`, normalised; `None` where it is no `http` or `https` URL, or has a user in it.
pub(super) fn of_claim(htu: &str) -> Option<String> {
    if !htu.bytes().all(|byte| byte.is_ascii_graphic()) {
        return None;
    }
    let (scheme, rest) = htu.split_once("://")?;
    let is_https = match () {
        () if scheme.eq_ignore_ascii_case("https") => true,
        () if scheme.eq_ignore_ascii_case("http") => false,
        () => return None,
    };
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host_end = match authority.strip_prefix('[') {
        Some(literal) => literal.find(']')? + 2,
        None => authority.find(':').unwrap_or(authority.len()),
    };
    let (host, port) = authority.split_at(host_end);
    let port = match port.strip_prefix(':') {
        // Section 3.2.3: `example.com:` is `example.com`.
        None if port.is_empty() => None,
        Some("") => None,
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            Some(digits.parse::<u16>().ok().filter(|port| *port != 0)?)
        }
        _ => return None,
    };
    let path = if path.is_empty() { "/" } else { path };
    write(is_https, &host.to_ascii_lowercase(), port, path.as_bytes())
}

/// The URL that a request is for; `None` where it has no host, or a path that no URL has. `is_https` is how the client
/// came, by the config or by the connection.
pub(super) fn of_request(request: &Request<'_>, is_https: bool) -> Option<String> {
    write(is_https, &request.host, request.port, request.path)
}

/// `host` is in lower case.
fn write(is_https: bool, host: &str, port: Option<u16>, path: &[u8]) -> Option<String> {
    let host = host.strip_suffix('.').unwrap_or(host);
    // A user before the host, or anything else that has no place in one; brackets and colons are IPv6's.
    let is_host = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=[]:".contains(&byte);
    // With one dot less the name of a host ends, or it is none.
    if host.is_empty() || host.ends_with('.') || !host.bytes().all(is_host) || path.first() != Some(&b'/') {
        return None;
    }
    let (scheme, default) = if is_https { ("https", 443) } else { ("http", 80) };
    let mut out = format!("{scheme}://{host}");
    if let Some(port) = port.filter(|port| *port != default) {
        out.push_str(&format!(":{port}"));
    }
    let path = decoded(path)?;
    let mut segments: Vec<&str> = Vec::new();
    let mut rest = path.split('/').skip(1).peekable();
    while let Some(segment) = rest.next() {
        match segment {
            "." | ".." => {
                if segment == ".." {
                    segments.pop();
                }
                // What they stood for ends with a slash.
                if rest.peek().is_none() {
                    segments.push("");
                }
            }
            _ => segments.push(segment),
        }
    }
    for segment in segments {
        out.push('/');
        out.push_str(segment);
    }
    Some(out)
}

/// Escapes in upper case, but for what needs none (RFC 3986, section 6.2.2.2); `None` for a `%` that begins no escape.
fn decoded(path: &[u8]) -> Option<String> {
    let mut out = String::with_capacity(path.len());
    let mut bytes = path.iter();
    while let Some(byte) = bytes.next() {
        let (byte, escaped) = match byte {
            b'%' => {
                let mut digit = || char::from(*bytes.next()?).to_digit(16);
                let value = digit()? * 16 + digit()?;
                (u8::try_from(value).ok()?, true)
            }
            byte => (*byte, !byte.is_ascii_graphic()),
        };
        if escaped && !(byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)) {
            out.push_str(&format!("%{byte:02X}"));
        } else {
            out.push(char::from(byte));
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn spellings_of_one_url_are_one() {
        for (htu, expected) in [
            ("https://a.example/x", Some("https://a.example/x")),
            ("HTTPS://A.Example/x", Some("https://a.example/x")),
            ("https://a.example:443/x", Some("https://a.example/x")),
            ("https://a.example:/x", Some("https://a.example/x")),
            ("https://a.example:80/x", Some("https://a.example:80/x")),
            ("http://a.example:80/x", Some("http://a.example/x")),
            ("https://a.example:8443/x", Some("https://a.example:8443/x")),
            ("https://a.example./x", Some("https://a.example/x")),
            ("https://a.example../x", None),
            ("https://a.example", Some("https://a.example/")),
            ("https://a.example?q", Some("https://a.example/")),
            ("https://a.example/x?q=/../y#f", Some("https://a.example/x")),
            ("https://a.example/x#f?q", Some("https://a.example/x")),
            ("https://a.example/%7ex/%41", Some("https://a.example/~x/A")),
            ("https://a.example/a%2fb%3f", Some("https://a.example/a%2Fb%3F")),
            ("https://a.example/a/./b/../c", Some("https://a.example/a/c")),
            ("https://a.example/a/%2e%2E/c", Some("https://a.example/c")),
            ("https://a.example/../../c", Some("https://a.example/c")),
            ("https://a.example/a/b/..", Some("https://a.example/a/")),
            ("https://a.example/a/.", Some("https://a.example/a/")),
            ("https://a.example//a//", Some("https://a.example//a//")),
            ("https://[2001:DB8::1]:443/x", Some("https://[2001:db8::1]/x")),
            ("https://[::1]:8443/x", Some("https://[::1]:8443/x")),
            ("https://a.example/X", Some("https://a.example/X")),
            ("https://a.example\\@evil/x", None),
            ("https://u@a.example/x", None),
            ("https://u:p@a.example/x", None),
            ("https:///x", None),
            ("https://:443/x", None),
            ("https:/a.example/x", None),
            ("//a.example/x", None),
            ("/x", None),
            ("", None),
            ("wss://a.example/x", None),
            ("https://a.example:0/x", None),
            ("https://a.example:65536/x", None),
            ("https://a.example:+443/x", None),
            ("https://a.example:443:443/x", None),
            ("https://[::1/x", None),
            ("https://[::1]x/x", None),
            ("https://a%2eexample/x", None),
            ("https://a.example/%", None),
            ("https://a.example/%4", None),
            ("https://a.example/%zz", None),
            ("https://a.example/ x", None),
            ("https://a.example/\u{e9}", None),
            (" https://a.example/", None),
            ("https://a.example/\n", None),
        ] {
            assert_eq!(of_claim(htu).as_deref(), expected, "{htu}");
        }
    }

    #[test]
    fn a_request_has_a_url_where_it_has_a_host_and_a_path() {
        for (host, port, path, is_https, expected) in [
            ("a.example", None, "/x", true, Some("https://a.example/x")),
            ("a.example", Some(443), "/x", true, Some("https://a.example/x")),
            ("a.example", Some(80), "/x", true, Some("https://a.example:80/x")),
            ("a.example", Some(80), "/x", false, Some("http://a.example/x")),
            ("[::1]", Some(8443), "/%41", true, Some("https://[::1]:8443/A")),
            // What the sent host has after its colon is no port.
            ("a.example", Some(0), "/x", true, Some("https://a.example:0/x")),
            ("", None, "/x", true, None),
            ("a b", None, "/x", true, None),
            ("a.example", None, "*", true, None),
            ("a.example", None, "", true, None),
            ("a.example", None, "/%", true, None),
        ] {
            let request = Request { host: host.into(), port, path: path.as_bytes(), ..Request::default() };
            assert_eq!(of_request(&request, is_https).as_deref(), expected, "{host} {port:?} {path}");
        }
        let request = Request { host: "a.example".into(), path: b"/\xc3\xa9 ", ..Request::default() };
        assert_eq!(of_request(&request, true).as_deref(), Some("https://a.example/%C3%A9%20"));
    }

    /// A byte of a path as it may stand there, plain or escaped in either case where that changes nothing.
    fn spelt(byte: u8, how: u8) -> String {
        let unreserved = byte.is_ascii_alphanumeric() || b"-_~".contains(&byte);
        match (unreserved, how % 3) {
            (true, 0) => char::from(byte).to_string(),
            (_, 1) => format!("%{byte:02x}"),
            (_, _) => format!("%{byte:02X}"),
        }
    }

    proptest! {
        #[test]
        fn respelling_changes_nothing(
            host in "[a-z0-9-]{1,8}(\\.[a-z]{1,5}){0,2}",
            segments in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..6), 0..5),
            how in prop::collection::vec(any::<u8>(), 32),
            tail in "([?#][!-~]{0,8})?",
        ) {
            let plain = |segment: &Vec<u8>| segment.iter().map(|byte| spelt(*byte, 2)).collect::<String>();
            let path: String = segments.iter().map(|segment| format!("/{}", plain(segment))).collect();
            let mut at = how.iter().cycle();
            let mut other = String::new();
            for segment in &segments {
                match at.next().unwrap() % 4 {
                    0 => other += "/.",
                    1 => other += "/gone/..",
                    2 => other += "/%2E/x/%2e%2e",
                    _ => {}
                }
                other.push('/');
                segment.iter().for_each(|byte| other += &spelt(*byte, *at.next().unwrap()));
            }
            let shouted: String = host.chars()
                .map(|c| if at.next().unwrap() % 2 == 0 { c.to_ascii_uppercase() } else { c })
                .collect();
            let port = ["", ":", ":443", ":00443"][usize::from(how[0] % 4)];
            let respelt = format!("hTTps://{shouted}{port}{other}{tail}");
            let base = of_claim(&format!("https://{host}{path}"));
            prop_assert!(base.is_some());
            prop_assert_eq!(of_claim(&respelt), base.clone(), "{}", respelt);
            // It is a spelling of itself, and a request for it is the same.
            prop_assert_eq!(of_claim(base.as_deref().unwrap()), base.clone());
            let path = if path.is_empty() { "/".to_owned() } else { path };
            let request = Request { host: host.into(), path: path.as_bytes(), ..Request::default() };
            prop_assert_eq!(of_request(&request, true), base);
        }

        #[test]
        fn anything_is_read_or_refused_and_stays_what_it_is(htu in "\\PC*", url in "https?://[!-~]{0,40}") {
            for text in [htu, url] {
                if let Some(read) = of_claim(&text) {
                    prop_assert_eq!(of_claim(&read), Some(read.clone()), "{}", text);
                }
            }
        }
    }
}
