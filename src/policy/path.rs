//! Paths: the one that policy sees is the one that the application will see.
//!
//! Proxies and applications disagree about dot segments, encoded slashes, backslashes and the like; every such
//! disagreement has been a bypass of somebody's access rules. So a path that can be read in two ways is refused before
//! any rule, and what is left has exactly one reading: percent-decoded once, as ASGI and WSGI servers decode it.

use std::borrow::Cow;

/// Reads a request's path (RFC 3986, section 3.3) the way the application will; the error says what could be read in
/// two ways.
pub fn read(raw: &[u8]) -> Result<Cow<'_, [u8]>, Ambiguity> {
    if raw.first() != Some(&b'/') {
        return Err(Ambiguity::NotAbsolute);
    }
    let mut percent = false;
    for (at, &byte) in raw.iter().enumerate() {
        match byte {
            0x00..=0x1f | 0x7f => return Err(Ambiguity::ControlByte),
            b'\\' => return Err(Ambiguity::Backslash),
            b'#' => return Err(Ambiguity::Fragment),
            b'/' if at > 0 && raw.get(at - 1) == Some(&b'/') => return Err(Ambiguity::DoubledSlash),
            // `/a;x/b`: servlet containers drop `;x`, others keep it. In the last segment it changes no directory.
            b';' if raw.get(at..).is_some_and(|rest| rest.contains(&b'/')) => return Err(Ambiguity::PathParameter),
            b'%' => {
                percent = true;
                match escape(raw, at).ok_or(Ambiguity::BrokenEscape)? {
                    b'.' => return Err(Ambiguity::EncodedDot),
                    b'/' => return Err(Ambiguity::EncodedSlash),
                    b'\\' => return Err(Ambiguity::Backslash),
                    0x00..=0x1f | 0x7f => return Err(Ambiguity::ControlByte),
                    // `%252e`: whoever decodes twice sees `.`. `100%25` alone is a percent sign and fine.
                    b'%' if is_hex(raw.get(at + 3)) && is_hex(raw.get(at + 4)) => {
                        return Err(Ambiguity::DoubleEncoding);
                    }
                    _ => {}
                }
            }
            _ => {}
        }
    }
    if raw.split(|byte| *byte == b'/').any(|segment| segment == b"." || segment == b"..") {
        return Err(Ambiguity::DotSegment);
    }
    let read = if percent { decode(raw) } else { Cow::Borrowed(raw) };
    // Overlong and broken UTF-8 is repaired, replaced or refused, depending on who reads it.
    if std::str::from_utf8(&read).is_err() {
        return Err(Ambiguity::NotUtf8);
    }
    Ok(read)
}

/// Percent-decodes without judging, for a config that says `ambiguous_paths: allow`.
pub fn decode(raw: &[u8]) -> Cow<'_, [u8]> {
    percent_encoding::percent_decode(raw).into()
}

fn escape(raw: &[u8], at: usize) -> Option<u8> {
    let digit = |at: usize| char::from(*raw.get(at)?).to_digit(16);
    u8::try_from(digit(at + 1)? * 16 + digit(at + 2)?).ok()
}

fn is_hex(byte: Option<&u8>) -> bool {
    byte.is_some_and(u8::is_ascii_hexdigit)
}

/// In which way a path could be read twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ambiguity {
    /// Does not begin with a slash (`*`, an authority, an empty path).
    NotAbsolute,
    /// A segment is `.` or `..`.
    DotSegment,
    /// `%2e`.
    EncodedDot,
    /// `%2f`.
    EncodedSlash,
    /// `\` or `%5c`.
    Backslash,
    /// `%25` followed by two hexadecimal digits.
    DoubleEncoding,
    /// `%` without two hexadecimal digits.
    BrokenEscape,
    /// `//`.
    DoubledSlash,
    /// `;` with a slash somewhere after it.
    PathParameter,
    /// A raw `#`.
    Fragment,
    /// A byte below 0x20, or 0x7f, raw or encoded.
    ControlByte,
    /// Not UTF-8 once decoded.
    NotUtf8,
}

impl std::fmt::Display for Ambiguity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Ambiguity::NotAbsolute => "does not begin with a slash",
            Ambiguity::DotSegment => "has a dot segment",
            Ambiguity::EncodedDot => "has an encoded dot",
            Ambiguity::EncodedSlash => "has an encoded slash",
            Ambiguity::Backslash => "has a backslash",
            Ambiguity::DoubleEncoding => "is encoded twice",
            Ambiguity::BrokenEscape => "has a broken percent escape",
            Ambiguity::DoubledSlash => "has a doubled slash",
            Ambiguity::PathParameter => "has a semicolon parameter before a slash",
            Ambiguity::Fragment => "has a number sign",
            Ambiguity::ControlByte => "has a control byte",
            Ambiguity::NotUtf8 => "is not UTF-8 once decoded",
        })
    }
}

/// A rule's `path`: literal segments, `*` for one segment, `**` for the rest.
///
/// `/admin/**` matches `/admin`, `/admin/` and all below it; `/v1/*` matches `/v1/x` but neither `/v1` nor `/v1/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathPattern {
    text: String,
    segments: Vec<Segment>,
    rest: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    Literal(Vec<u8>),
    One,
}

impl PathPattern {
    /// Parses a pattern. It is written as the application sees paths, not percent-encoded.
    pub fn parse(text: &str) -> Result<PathPattern, PatternError> {
        let Some(inner) = text.strip_prefix('/') else { return Err(PatternError::NotAbsolute) };
        let mut segments = Vec::new();
        let mut rest = false;
        let mut parts = inner.split('/').peekable();
        while let Some(part) = parts.next() {
            match part {
                "**" if parts.peek().is_none() => rest = true,
                "**" => return Err(PatternError::RestNotLast),
                "*" => segments.push(Segment::One),
                part if part.contains('*') => return Err(PatternError::PartialWildcard),
                "." | ".." => return Err(PatternError::DotSegment),
                // `/` alone is one empty segment, and so is what follows a trailing slash; `//` can never match.
                "" if parts.peek().is_some() => return Err(PatternError::DoubledSlash),
                part => segments.push(Segment::Literal(part.as_bytes().to_vec())),
            }
        }
        Ok(PathPattern { text: text.to_owned(), segments, rest })
    }

    /// Whether a path, as given by [`read`], matches.
    pub fn matches(&self, path: &[u8]) -> bool {
        let Some(inner) = path.strip_prefix(b"/") else { return false };
        let mut parts = inner.split(|byte| *byte == b'/');
        for segment in &self.segments {
            let matched = match (segment, parts.next()) {
                (Segment::Literal(literal), Some(part)) => part == literal,
                (Segment::One, Some(part)) => !part.is_empty(),
                (_, None) => false,
            };
            if !matched {
                return false;
            }
        }
        self.rest || parts.next().is_none()
    }

    /// One path that matches.
    pub fn example(&self) -> String {
        self.text.replace("**", "x").replace('*', "x")
    }

    /// The segments before the first wildcard.
    pub fn literal_prefix(&self) -> impl Iterator<Item = &[u8]> {
        self.segments.iter().map_while(|segment| match segment {
            Segment::Literal(literal) => Some(literal.as_slice()),
            Segment::One => None,
        })
    }

    /// Whether everything that `other` matches is matched by this one, so that a later rule with `other` is never
    /// reached.
    pub fn covers(&self, other: &PathPattern) -> bool {
        if !self.rest && (other.rest || other.segments.len() != self.segments.len()) {
            return false;
        }
        other.segments.len() >= self.segments.len()
            && self.segments.iter().zip(&other.segments).all(|(ours, theirs)| match (ours, theirs) {
                (Segment::Literal(ours), Segment::Literal(theirs)) => ours == theirs,
                (Segment::One, Segment::Literal(theirs)) => !theirs.is_empty(),
                (Segment::One, Segment::One) => true,
                (Segment::Literal(_), Segment::One) => false,
            })
    }
}

impl std::fmt::Display for PathPattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

/// Why a pattern is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// It must begin with a slash.
    #[error("a path pattern begins with `/`")]
    NotAbsolute,
    /// `**` stands for the rest and so comes last.
    #[error("`**` stands for the rest of the path and can only come last")]
    RestNotLast,
    /// `v*` and the like.
    #[error("`*` stands for one whole segment; `a*` is not a pattern")]
    PartialWildcard,
    /// Such a path is refused before any rule.
    #[error("a path with a dot segment is refused before any rule, so this can never match")]
    DotSegment,
    /// Such a path is refused before any rule.
    #[error("a path with a doubled slash is refused before any rule, so this can never match")]
    DoubledSlash,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_read_in_two_ways_is_refused() {
        for (raw, expected) in [
            ("", Ambiguity::NotAbsolute),
            ("*", Ambiguity::NotAbsolute),
            ("admin", Ambiguity::NotAbsolute),
            ("/a/../b", Ambiguity::DotSegment),
            ("/a/.", Ambiguity::DotSegment),
            ("/..", Ambiguity::DotSegment),
            ("/a/%2e%2e/b", Ambiguity::EncodedDot),
            ("/a%2Eb", Ambiguity::EncodedDot),
            ("/a%2fb", Ambiguity::EncodedSlash),
            ("/a\\b", Ambiguity::Backslash),
            ("/a%5Cb", Ambiguity::Backslash),
            ("/a%252e", Ambiguity::DoubleEncoding),
            ("/a%2", Ambiguity::BrokenEscape),
            ("/a%zz", Ambiguity::BrokenEscape),
            ("//admin", Ambiguity::DoubledSlash),
            ("/a//b", Ambiguity::DoubledSlash),
            ("/a;x/b", Ambiguity::PathParameter),
            ("/a#b", Ambiguity::Fragment),
            ("/a%00", Ambiguity::ControlByte),
            ("/a%0d", Ambiguity::ControlByte),
            ("/a\tb", Ambiguity::ControlByte),
            ("/a%7f", Ambiguity::ControlByte),
            ("/%c0%af", Ambiguity::NotUtf8),
        ] {
            assert_eq!(read(raw.as_bytes()), Err(expected), "{raw}");
        }
    }

    #[test]
    fn what_has_one_reading_is_read_as_the_application_reads_it() {
        for (raw, seen) in [
            ("/", "/"),
            ("/admin", "/admin"),
            ("/%61dmin", "/admin"),
            ("/a;x=1", "/a;x=1"),
            ("/100%25", "/100%"),
            ("/caf%C3%A9/x.html", "/café/x.html"),
            ("/...", "/..."),
            ("/a%23b", "/a#b"),
        ] {
            assert_eq!(read(raw.as_bytes()).map(|path| path.into_owned()), Ok(seen.as_bytes().to_vec()), "{raw}");
        }
    }

    #[test]
    fn patterns_match_whole_segments() {
        for (pattern, path, expected) in [
            ("/healthz", "/healthz", true),
            ("/healthz", "/healthz/", false),
            ("/healthz", "/healthzz", false),
            ("/", "/", true),
            ("/", "/a", false),
            ("/**", "/", true),
            ("/**", "/a/b", true),
            ("/admin/**", "/admin", true),
            ("/admin/**", "/admin/", true),
            ("/admin/**", "/admin/x/y", true),
            ("/admin/**", "/administrator", false),
            ("/v1/*", "/v1/x", true),
            ("/v1/*", "/v1/", false),
            ("/v1/*", "/v1/x/y", false),
            ("/v1/*/z", "/v1/x/z", true),
        ] {
            assert_eq!(PathPattern::parse(pattern).unwrap().matches(path.as_bytes()), expected, "{pattern} {path}");
        }
    }

    #[test]
    fn patterns_that_can_never_match_are_none() {
        for (text, expected) in [
            ("", PatternError::NotAbsolute),
            ("admin/**", PatternError::NotAbsolute),
            ("/a/**/b", PatternError::RestNotLast),
            ("/v*", PatternError::PartialWildcard),
            ("/a/../b", PatternError::DotSegment),
            ("/a//b", PatternError::DoubledSlash),
        ] {
            assert_eq!(PathPattern::parse(text), Err(expected), "{text}");
        }
    }

    #[test]
    fn covering_means_that_nothing_is_left_over() {
        for (first, second, expected) in [
            ("/**", "/a/*", true),
            ("/a/**", "/a", true),
            ("/a/*", "/a/b", true),
            ("/a/*", "/a/**", false),
            ("/a/b", "/a/*", false),
            ("/a/*", "/a/", false),
        ] {
            let (first, second) = (PathPattern::parse(first).unwrap(), PathPattern::parse(second).unwrap());
            assert_eq!(first.covers(&second), expected, "{first} {second}");
        }
    }
}
