//! What may be secret in URLs, and must not stand in anything that is written or printed.

use std::borrow::Cow;
use std::io::{self, Write};

const MASK: &str = "***";

/// A text with the secrets of all URLs in it masked: users and passwords, values of the query, fragments. What an address
/// in a profile may not hold ([`may_stand_in_url`]) ends a URL; so does what stands around one in JSON, TOML and prose.
pub fn mask_urls(text: &str) -> Cow<'_, str> {
    let mut out = String::new();
    let mut copied = 0;
    let mut from = 0;
    while let Some(at) = text[from..].find("://").map(|at| from + at) {
        let rest = &text[at + 3..];
        let end = rest.find(|c: char| !may_stand_in_url(c)).unwrap_or(rest.len());
        // What closes a sentence or a bracket around it.
        let end = rest[..end].trim_end_matches(['.', ',', ';', ':', '!', ')', ']', '}', '\'']).len();
        if let Cow::Owned(masked) = masked(&rest[..end], true) {
            out.push_str(&text[copied..at + 3]);
            out.push_str(&masked);
            copied = at + 3 + end;
        }
        from = at + 3 + end;
    }
    if copied == 0 {
        return Cow::Borrowed(text);
    }
    out.push_str(&text[copied..]);
    Cow::Owned(out)
}

/// The same of a text that was to be one URL, and may be none.
pub fn mask_url(text: &str) -> String {
    match text.split_once("://") {
        Some((scheme, rest)) => format!("{scheme}://{}", masked(rest, true)),
        None => masked(text, false).into_owned(),
    }
}

/// True of a URL in whose query or fragment something was masked.
pub fn has_mask(url: &str) -> bool {
    url.split(['?', '&', '#', '=']).skip(1).any(|value| value == MASK)
}

/// False for what RFC 3986 has in no URL and texts have around one.
pub fn may_stand_in_url(c: char) -> bool {
    !(c.is_whitespace() || c.is_control() || matches!(c, '"' | '<' | '>' | '\\' | '`'))
}

/// What follows a URL's `://`; without `authority`, a path may be none.
fn masked(url: &str, authority: bool) -> Cow<'_, str> {
    let (head, tail) = url.split_at(url.find(['?', '#']).unwrap_or(url.len()));
    let before_path = head.find('/').filter(|_| authority).unwrap_or(head.len());
    let user_end = head[..before_path].rfind('@');
    if user_end.is_none() && tail.len() < 2 {
        return Cow::Borrowed(url);
    }
    let mut out = match user_end {
        Some(at) => format!("{MASK}{}", &head[at..]),
        None => head.to_owned(),
    };
    let (query, fragment) = tail.split_once('#').map_or((tail, None), |(q, f)| (q, Some(f)));
    if let Some(query) = query.strip_prefix('?') {
        for (i, pair) in query.split('&').enumerate() {
            out.push(if i == 0 { '?' } else { '&' });
            match pair.split_once('=') {
                Some((key, "")) => out.extend([key, "="]),
                Some((key, _)) => out.extend([key, "=", MASK]),
                None if pair.is_empty() => {}
                None => out.push_str(MASK),
            }
        }
    }
    match fragment {
        Some("") => out.push('#'),
        Some(_) => out.extend(["#", MASK]),
        None => {}
    }
    Cow::Owned(out)
}

/// Masks what is written to it; who writes gives whole texts.
pub struct Masking<W>(pub W);

impl<W: Write> Write for Masking<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        self.0.write_all(mask_urls(&text).as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_queries_and_users_are_masked_wherever_a_url_stands() {
        for (text, masked) in [
            ("ws://10.0.0.1:8188/a?token=S3cret", "ws://10.0.0.1:8188/a?token=***"),
            ("url = \"https://h/?a=S3cret&b=&S3cret&c=S3cret\"\n", "url = \"https://h/?a=***&b=&***&c=***\"\n"),
            ("{\"url\":\"ws://h?k=S3cret\",\"n\":1}", "{\"url\":\"ws://h?k=***\",\"n\":1}"),
            ("at redis://u:S3cret@h:6379/0: refused", "at redis://***@h:6379/0: refused"),
            ("(http://h/x?k=S3cret): no answer", "(http://h/x?k=***): no answer"),
            ("http://a/?k=S3cret, http://b/#S3cret.", "http://a/?k=***, http://b/#***."),
            ("line\\nws://h/?k=S3cret\\nnext", "line\\nws://h/?k=***\\nnext"),
            ("ws://h/?k=***", "ws://h/?k=***"),
        ] {
            assert_eq!(mask_urls(text), masked);
            assert_eq!(mask_urls(&mask_urls(text)), masked, "once is enough");
        }
        for plain in
            ["", "ws://10.0.0.1:8188/janus", "a://", "turn:10.0.0.1?transport=tcp", "no?url=here", "http://h/@x"]
        {
            assert!(matches!(mask_urls(plain), Cow::Borrowed(text) if text == plain), "{plain}");
        }
    }

    #[test]
    fn what_was_to_be_a_url_is_masked_too() {
        for (text, masked) in [
            ("sfu.example/path?token=S3cret and more", "sfu.example/path?token=***"),
            ("user:S3/cret@sfu.example", "***@sfu.example"),
            ("ws://u:S3cret@h h/?S3cret", "ws://***@h h/?***"),
            ("turn:10.0.0.1", "turn:10.0.0.1"),
        ] {
            assert_eq!(mask_url(text), masked);
        }
    }

    #[test]
    fn a_masked_url_is_known() {
        for masked in ["ws://h/?k=S3cret", "ws://h/?a=1&S3cret", "ws://h/#S3cret"] {
            assert!(!has_mask(masked) && has_mask(&mask_url(masked)), "{masked}");
        }
        assert!(!has_mask("ws://h/***") && !has_mask("ws://h"));
    }

    #[test]
    fn a_writer_masks_what_goes_through() {
        let mut out = Masking(Vec::new());
        out.write_all(b"no answer of ws://h/?k=S3cret \xff\n").unwrap();
        assert_eq!(String::from_utf8(out.0).unwrap(), "no answer of ws://h/?k=*** \u{fffd}\n");
    }
}
