//! API keys: who may send requests.

use std::{fmt, hint::black_box, sync::Arc};

use arc_swap::ArcSwap;
use http::{HeaderMap, HeaderName, header};
use router_core::{ErrorCode, Rejection};
use thiserror::Error;

/// Keys that clients must show, as `authorization: Bearer KEY` or, like Anthropic's clients, as
/// `x-api-key: KEY`. Shared by all requests; [`ApiKeys::replace`] changes them while serving.
pub struct ApiKeys {
    keys: ArcSwap<Vec<Key>>,
}

/// What is wrong with a file of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ApiKeysError {
    /// Serving nobody is a mistake rather than a wish.
    #[error("no key in the file")]
    Empty,
    #[error("line {line}: a key is made of visible ASCII characters without spaces")]
    BadCharacter { line: usize },
    #[error("line {line}: a key has at most {} bytes", ApiKeys::MAX_KEY_BYTES)]
    TooLong { line: usize },
    #[error("more than {} keys", ApiKeys::MAX_KEYS)]
    TooMany,
}

type Key = Box<[u8]>;

const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

// === impl ApiKeys ===

impl ApiKeys {
    /// Every request is compared with every key, so that time tells nothing; that bounds their number.
    pub const MAX_KEYS: usize = 1_024;
    /// Longest key.
    pub const MAX_KEY_BYTES: usize = 512;

    /// Reads a file of keys: one per line; empty lines and lines that begin with `#` do not count.
    pub fn parse(text: &[u8]) -> Result<Self, ApiKeysError> {
        Ok(Self { keys: ArcSwap::from_pointee(parse(text)?) })
    }

    /// Takes another file's keys in place of these; on an error these stay.
    pub fn replace(&self, text: &[u8]) -> Result<(), ApiKeysError> {
        self.keys.store(Arc::new(parse(text)?));
        Ok(())
    }

    /// Lets a request with one of the keys through, and takes the key out of its head: it is ours, not the
    /// model server's.
    pub(crate) fn admit(&self, headers: &mut HeaderMap) -> Result<(), Rejection> {
        let shown = [
            (header::AUTHORIZATION, bearer(headers)),
            (X_API_KEY, headers.get(X_API_KEY).map(|value| value.as_bytes())),
        ];
        let matching = shown
            .into_iter()
            .find(|(_, key)| key.is_some_and(|key| self.is_known(key)))
            .map(|(name, _)| name);
        match matching {
            Some(name) => {
                headers.remove(name);
                Ok(())
            }
            None if headers.contains_key(header::AUTHORIZATION)
                || headers.contains_key(X_API_KEY) =>
            {
                Err(Rejection::new(ErrorCode::Unauthorized, "the API key is not known"))
            }
            None => Err(Rejection::new(
                ErrorCode::Unauthorized,
                "an API key is needed, send it as `authorization: Bearer KEY`",
            )),
        }
    }

    fn is_known(&self, shown: &[u8]) -> bool {
        let keys = self.keys.load();
        keys.iter().fold(false, |known, key| known | is_equal(key, shown))
    }
}

impl fmt::Debug for ApiKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApiKeys({} keys)", self.keys.load().len())
    }
}

fn parse(text: &[u8]) -> Result<Vec<Key>, ApiKeysError> {
    let mut keys = Vec::new();
    for (line, key) in (1..).zip(text.split(|byte| *byte == b'\n')) {
        let key = key.trim_ascii();
        if key.is_empty() || key.starts_with(b"#") {
            continue;
        }
        if !key.iter().all(u8::is_ascii_graphic) {
            return Err(ApiKeysError::BadCharacter { line });
        }
        if key.len() > ApiKeys::MAX_KEY_BYTES {
            return Err(ApiKeysError::TooLong { line });
        }
        if keys.len() == ApiKeys::MAX_KEYS {
            return Err(ApiKeysError::TooMany);
        }
        keys.push(key.into());
    }
    if keys.is_empty() { Err(ApiKeysError::Empty) } else { Ok(keys) }
}

/// The key of `authorization: Bearer KEY`; the scheme's case does not count (RFC 9110 §11.1).
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(header::AUTHORIZATION)?.as_bytes();
    let (scheme, key) = value.split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| key.trim_ascii())
}

/// Compares in a time that depends on the lengths alone.
fn is_equal(key: &[u8], shown: &[u8]) -> bool {
    if key.len() != shown.len() {
        return false;
    }
    let differing = key.iter().zip(shown).fold(0, |all, (a, b)| black_box(all | (a ^ b)));
    black_box(differing) == 0
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn head(name: HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_str(value).unwrap())])
    }

    #[test]
    fn a_known_key_is_let_through_and_not_forwarded() {
        let keys = ApiKeys::parse(b"# team a\n sk-one \r\n\nsk-two").unwrap();
        let check = |name: HeaderName, value, admitted: bool| {
            let mut headers = head(name.clone(), value);
            assert_eq!(keys.admit(&mut headers).is_ok(), admitted, "{name}: {value}");
            assert_eq!(headers.contains_key(&name), !admitted);
        };
        check(header::AUTHORIZATION, "Bearer sk-one", true);
        check(header::AUTHORIZATION, "bearer sk-two", true);
        check(X_API_KEY, "sk-two", true);
        for bad in
            ["Bearer sk-on", "Bearer sk-onee", "Bearer ", "Bearer", "Basic sk-one", "sk-one", ""]
        {
            check(header::AUTHORIZATION, bad, false);
        }
        check(X_API_KEY, "# team a", false);
        assert!(keys.admit(&mut HeaderMap::new()).is_err());
    }

    #[test]
    fn only_the_header_with_our_key_is_removed() {
        let keys = ApiKeys::parse(b"sk-one").unwrap();
        let mut headers = head(header::AUTHORIZATION, "Bearer of-the-model-server");
        headers.insert(X_API_KEY, HeaderValue::from_static("sk-one"));
        assert!(keys.admit(&mut headers).is_ok());
        assert_eq!(headers[header::AUTHORIZATION], "Bearer of-the-model-server");
        assert!(!headers.contains_key(X_API_KEY));
    }

    #[test]
    fn a_bad_file_is_refused_with_its_line_and_changes_nothing() {
        let keys = ApiKeys::parse(b"sk-one").unwrap();
        let check = |text: &[u8], error| assert_eq!(keys.replace(text), Err(error));
        check(b"# none\n", ApiKeysError::Empty);
        check(b"a\nb c\n", ApiKeysError::BadCharacter { line: 2 });
        check("\n\nschl\u{fc}ssel".as_bytes(), ApiKeysError::BadCharacter { line: 3 });
        check(&[b'k'; 513], ApiKeysError::TooLong { line: 1 });
        check(&b"k\n".repeat(1_025), ApiKeysError::TooMany);
        assert!(keys.admit(&mut head(X_API_KEY, "sk-one")).is_ok());
        keys.replace(b"sk-new").unwrap();
        assert!(keys.admit(&mut head(X_API_KEY, "sk-one")).is_err());
        assert!(keys.admit(&mut head(X_API_KEY, "sk-new")).is_ok());
    }

    #[test]
    fn keys_are_not_shown() {
        let keys = ApiKeys::parse(b"sk-one").unwrap();
        assert_eq!(format!("{keys:?}"), "ApiKeys(1 keys)");
    }
}
