//! Which hosts a rule is for.

use std::fmt;

/// One host, or all below one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostPattern {
    /// This one: lower case, without port and trailing dot.
    Exact(String),
    /// Everything that ends in `.` and this, at whatever depth; not this itself.
    Below(String),
}

impl HostPattern {
    /// `api.acme.example` or `*.acme.example`, in lower case.
    pub fn new(text: String) -> HostPattern {
        match text.strip_prefix("*.") {
            Some(domain) => HostPattern::Below(domain.to_owned()),
            None => HostPattern::Exact(text),
        }
    }

    /// Whether it is for `host`, which is in lower case too.
    pub fn matches(&self, host: &str) -> bool {
        match self {
            HostPattern::Exact(name) => name == host,
            HostPattern::Below(domain) => is_below(host, domain),
        }
    }

    /// Whether every host that `other` is for is this one's too.
    pub fn covers(&self, other: &HostPattern) -> bool {
        match (self, other) {
            (_, HostPattern::Exact(host)) => self.matches(host),
            (HostPattern::Exact(_), HostPattern::Below(_)) => false,
            (HostPattern::Below(domain), HostPattern::Below(other)) => domain == other || is_below(other, domain),
        }
    }
}

/// A name before the dot is needed: `.acme.example` is no host of anybody.
fn is_below(host: &str, domain: &str) -> bool {
    host.strip_suffix(domain).and_then(|rest| rest.strip_suffix('.')).is_some_and(|name| !name.is_empty())
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HostPattern::Exact(name) => f.write_str(name),
            HostPattern::Below(domain) => write!(f, "*.{domain}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> HostPattern {
        HostPattern::new(text.to_owned())
    }

    #[test]
    fn a_wildcard_is_for_what_is_below_and_for_nothing_that_only_ends_so() {
        let below = pattern("*.acme.example");
        for (host, matches) in [
            ("a.acme.example", true),
            ("b.a.acme.example", true),
            ("acme.example", false),
            (".acme.example", false),
            ("evilacme.example", false),
            ("a.acme.example.evil", false),
            ("", false),
        ] {
            assert_eq!(below.matches(host), matches, "{host}");
        }
        assert_eq!(below.to_string(), "*.acme.example");
    }

    #[test]
    fn what_covers_a_pattern_matches_all_that_it_does() {
        for (one, other, covers) in [
            ("*.example", "*.acme.example", true),
            ("*.acme.example", "*.acme.example", true),
            ("*.acme.example", "*.example", false),
            ("*.acme.example", "acme.example", false),
            ("*.acme.example", "a.acme.example", true),
            ("a.acme.example", "*.acme.example", false),
            ("a.acme.example", "a.acme.example", true),
        ] {
            assert_eq!(pattern(one).covers(&pattern(other)), covers, "{one} {other}");
        }
    }
}
