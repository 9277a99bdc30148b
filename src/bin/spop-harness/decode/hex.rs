//! Hex as people have it: typed, pasted, or printed by xxd, `hexdump -C` or `tcpdump -x`.

/// The bytes of a text. Digits come in pairs; blanks, commas, colons, `0x` and `\x` may stand between them, and an offset
/// at the beginning of a line. `#` begins a comment.
pub fn parse(text: &str) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let mut dumped = false;
    for (at, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        let digits = match columns(line) {
            Some(digits) => {
                dumped = true;
                digits
            }
            // `hexdump -C` ends with the offset behind the last byte.
            None if dumped && line.len() >= 7 && is_hex(line) => "",
            None => line,
        };
        for word in digits.split([' ', '\t', ',', ':']).filter(|word| !word.is_empty()) {
            let digits = word.strip_prefix("0x").or_else(|| word.strip_prefix("0X")).unwrap_or(word).replace("\\x", "");
            if digits.is_empty() || digits.len() % 2 != 0 || !is_hex(&digits) {
                return Err(format!("line {}: `{word}`: expected pairs of hex digits", at + 1));
            }
            let pairs = (0..digits.len()).step_by(2).filter_map(|at| digits.get(at..at + 2));
            bytes.extend(pairs.filter_map(|pair| u8::from_str_radix(pair, 16).ok()));
        }
    }
    Ok(bytes)
}

/// The middle column of a line that begins with an offset.
fn columns(line: &str) -> Option<&str> {
    if let Some((offset, rest)) = line.split_once(':') {
        let offset = offset.strip_prefix("0x").unwrap_or(offset);
        if offset.len() >= 4 && is_hex(offset) {
            // xxd and tcpdump: two blanks stand before the characters.
            let rest = rest.trim_start();
            return Some(rest.split("  ").next().unwrap_or_default());
        }
    }
    // `hexdump -C`: two blanks stand in the middle of the bytes too, and a bar before the characters.
    let (offset, rest) = line.split_once("  ")?;
    (offset.len() >= 7 && is_hex(offset)).then(|| rest.split('|').next().unwrap_or_default())
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_in_every_form_gives_the_same_bytes() {
        let bytes: Vec<u8> = (0..20).map(|byte| byte * 13).collect();
        let plain: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let words = |between: &str, before: &str| {
            bytes.iter().map(|byte| format!("{before}{byte:02x}")).collect::<Vec<_>>().join(between)
        };
        let xxd = "00000000: 000d 1a27 3441 4e5b 6875 828f 9ca9 b6c3  ...'4AN[hu......\n00000010: d0dd eaf7  ....\n";
        let hexdump = "00000000  00 0d 1a 27 34 41 4e 5b  68 75 82 8f 9c a9 b6 c3  |...'4AN[hu......|\n\
            00000010  d0 dd ea f7  |....|\n00000014\n";
        let tcpdump = "\t0x0000:  000d 1a27 3441 4e5b 6875 828f 9ca9 b6c3\n\t0x0010:  d0dd eaf7\n";
        for text in [
            plain.as_str(),
            &plain.to_uppercase(),
            &words(" ", ""),
            &words(", ", "0x"),
            &words(":", ""),
            &words("", "\\x"),
            &format!("# a comment\n{plain}  # another\n"),
            xxd,
            hexdump,
            tcpdump,
        ] {
            assert_eq!(parse(text).as_ref(), Ok(&bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_hex_is_refused_with_its_line() {
        for (text, expected) in [
            ("00\n0g", "line 2: `0g`: expected pairs of hex digits"),
            ("000", "line 1: `000`: expected pairs of hex digits"),
            ("0x", "line 1: `0x`: expected pairs of hex digits"),
            ("00 00  length 2", "line 1: `length`: expected pairs of hex digits"),
            ("é0", "line 1: `é0`: expected pairs of hex digits"),
        ] {
            assert_eq!(parse(text), Err(expected.to_owned()), "{text}");
        }
    }
}
