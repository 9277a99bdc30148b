//! What somebody without a credential gets: a browser is sent to where its user signs in, a program is asked for a
//! credential.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};

use crate::request::Request;

/// Where browsers are sent to sign in, with the address that they came for in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignIn {
    /// Before `{url}`.
    pub before: String,
    /// After it; `None` where the config does not name it.
    pub after: Option<String>,
}

/// What a rule gives to somebody without a credential that it needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Anonymous {
    /// A redirect to whoever navigates there, a challenge to everybody else.
    #[default]
    Auto,
    /// A redirect, to every request that can follow one without losing anything.
    Redirect,
    /// A challenge.
    Challenge,
}

impl Anonymous {
    /// All of them, with the config's word for each.
    pub const NAMES: [(&'static str, Anonymous); 3] =
        [("auto", Anonymous::Auto), ("redirect", Anonymous::Redirect), ("challenge", Anonymous::Challenge)];

    /// Whether `request` is redirected.
    ///
    /// Only GET and HEAD: any other method would come back as a GET, without its body (RFC 9110, section 15.4.3). A
    /// navigation is told by an `Accept` that names `text/html`, which browsers send with those only; `fetch`, and
    /// libraries, send `*/*` or what they can read, and a redirect to a page of another origin would be lost on them.
    pub fn redirects(self, request: &Request<'_>) -> bool {
        let safe = matches!(request.method, "GET" | "HEAD");
        match self {
            Anonymous::Challenge => false,
            Anonymous::Redirect => safe,
            Anonymous::Auto => safe && request.authorization.is_none() && request.accept.is_some_and(names_html),
        }
    }
}

impl SignIn {
    /// The value of `Location`. An address with more than 256 bytes is left out but for its host: the user
    /// then signs in and comes to the front page.
    pub fn location(&self, request: &Request<'_>) -> String {
        let Some(after) = &self.after else { return self.before.clone() };
        let scheme = if request.ssl { "https" } else { "http" };
        let mut url = format!("{scheme}://{}", request.host).into_bytes();
        if let Some(port) = request.port {
            url.extend_from_slice(format!(":{port}").as_bytes());
        }
        let origin = url.len();
        url.extend_from_slice(request.path);
        if let Some(query) = request.query.filter(|query| !query.is_empty()) {
            url.push(b'?');
            url.extend_from_slice(query);
        }
        if url.len() > URL_BYTES_MAX {
            url.truncate(origin);
            url.push(b'/');
        }
        format!("{}{}{after}", self.before, percent_encode(&url, COMPONENT))
    }
}

/// Whether a value of `Accept` names HTML (RFC 9110, section 12.5.1).
fn names_html(accept: &[u8]) -> bool {
    accept.split(|byte| *byte == b',').any(|range| {
        let kind = range.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
        kind.eq_ignore_ascii_case(b"text/html") || kind.eq_ignore_ascii_case(b"application/xhtml+xml")
    })
}

/// All but the unreserved characters (RFC 3986, section 2.3): whatever the address holds, it stays one value.
const COMPONENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Encoded up to three times as long, it is a part of an ACK that has about 800 bytes (docs/spop.md).
const URL_BYTES_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    const CHROME: &[u8] = b"text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8";

    #[test]
    fn whoever_navigates_is_redirected_and_nobody_else() {
        use Anonymous::{Auto, Challenge, Redirect};
        for (what, way, method, accept, authorization, expected) in [
            ("a navigation", Auto, "GET", Some(CHROME), None, true),
            ("case does not count", Auto, "HEAD", Some(&b" TEXT/HTML ;q=0.1"[..]), None, true),
            ("fetch", Auto, "GET", Some(b"*/*"), None, false),
            ("an API client", Auto, "GET", Some(b"application/json"), None, false),
            ("a name that only begins so", Auto, "GET", Some(b"text/htmlx"), None, false),
            ("none says nothing", Auto, "GET", None, None, false),
            ("a form", Auto, "POST", Some(CHROME), None, false),
            ("a client with a credential", Auto, "GET", Some(CHROME), Some(&b"Basic x"[..]), false),
            ("asked for", Redirect, "GET", Some(b"*/*"), None, true),
            ("asked for, and lossy", Redirect, "POST", Some(CHROME), None, false),
            ("never", Challenge, "GET", Some(CHROME), None, false),
        ] {
            let request = Request { method, accept, authorization, ..Request::default() };
            assert_eq!(way.redirects(&request), expected, "{what}");
        }
    }

    #[test]
    fn the_address_is_one_value_whatever_it_holds() {
        let to = SignIn { before: "https://login.acme.example/start?rd=".into(), after: Some("&x=1".into()) };
        let request = Request {
            host: "app.acme.example".into(),
            port: Some(8443),
            ssl: true,
            path: b"/a b/%2F\r\n&x=2",
            query: Some(b"q=1&r=#\xff"),
            ..Request::default()
        };
        assert_eq!(
            to.location(&request),
            "https://login.acme.example/start?rd=https%3A%2F%2Fapp.acme.example%3A8443%2Fa%20b%2F%252F%0D%0A%26x%3D2%3Fq%3D1%26r%3D%23%FF&x=1"
        );
        let long = vec![b'x'; 4096];
        let request = Request { query: Some(&long), ..request };
        assert!(to.location(&request).ends_with("rd=https%3A%2F%2Fapp.acme.example%3A8443%2F&x=1"));
        let plain = SignIn { before: "/oauth2/start".into(), after: None };
        assert_eq!(plain.location(&request), "/oauth2/start");
    }
}
