//! The head of a request: what is refused, what belongs to the connection and goes no further, what the
//! model server is told about the client.

use std::{net::IpAddr, sync::Arc};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Version,
    header::{self, Entry},
    request::Parts,
};
use router_core::{ErrorCode, Rejection, Stamp};
use router_framework::{RequestHead, SubsetHint};
use router_net::Peer;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// Headers of one connection besides those that `connection` names (RFC 9110 §7.6.1). `trailer` is not
/// among them: it belongs to the message.
const HOP_BY_HOP: [HeaderName; 8] = [
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    KEEP_ALIVE,
    PROXY_CONNECTION,
    HTTP2_SETTINGS,
];

/// What of a head concerns this connection alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Hop {
    /// The client can take trailers.
    pub(crate) wants_trailers: bool,
    /// The client waits for `100 Continue` before it sends the body.
    pub(crate) expects_continue: bool,
    pub(crate) is_http1: bool,
}

impl Hop {
    pub(crate) fn of(parts: &Parts) -> Self {
        Self {
            wants_trailers: names_token(&parts.headers, &header::TE, b"trailers"),
            expects_continue: names_token(&parts.headers, &header::EXPECT, b"100-continue"),
            is_http1: parts.version <= Version::HTTP_11,
        }
    }
}

/// Path and query of a request, as the engine and the log want it.
pub(crate) fn path_and_query(parts: &Parts) -> Arc<str> {
    parts.uri.path_and_query().map_or("/", |path| path.as_str()).into()
}

/// Refuses what the proxy does not do.
pub(crate) fn check(parts: &Parts) -> Result<(), Rejection> {
    let refused = |what: String| Err(Rejection::new(ErrorCode::NotImplemented, what));
    if matches!(parts.method, Method::CONNECT | Method::TRACE) {
        return refused(format!("{} is not supported", parts.method));
    }
    let mut offers = tokens(&parts.headers, &header::UPGRADE);
    if offers.any(|protocol| !protocol.eq_ignore_ascii_case(b"h2c")) {
        return refused("protocol upgrades are not supported".to_owned());
    }
    // The model server would get the coded bytes without the header that names the coding (RFC 9112 §6.1).
    let codings = tokens(&parts.headers, &header::TRANSFER_ENCODING);
    if codings
        .filter(|coding| !coding.is_empty())
        .any(|coding| !coding.eq_ignore_ascii_case(b"chunked"))
    {
        return refused("transfer codings other than `chunked` are not supported".to_owned());
    }
    // Two servers may believe one of them each (RFC 9112 §3.2).
    if parts.headers.get_all(header::HOST).iter().nth(1).is_some() {
        return Err(Rejection::bad_request("more than one host header"));
    }
    Ok(())
}

/// The head as the engine and the model server see it.
pub(crate) fn head(
    parts: Parts,
    path_and_query: Arc<str>,
    end_of_stream: bool,
    received: Stamp,
) -> RequestHead {
    let Parts { method, uri, mut headers, extensions, .. } = parts;
    remove_hop_by_hop(&mut headers);
    // The proxy itself asks the client for the body.
    headers.remove(header::EXPECT);
    join_cookies(&mut headers);
    let host = headers.remove(header::HOST);
    let host = match uri.authority() {
        // The target's authority counts more than the header (RFC 9112 §3.2.2).
        Some(authority) => HeaderValue::from_str(authority.as_str()).ok(),
        None => host,
    };
    if let Some(peer) = extensions.get::<Peer>() {
        forwarded_for(&mut headers, peer.addr.ip());
        let scheme = if peer.tls { "https" } else { "http" };
        set_if_absent(&mut headers, FORWARDED_PROTO, HeaderValue::from_static(scheme));
    }
    if let Some(host) = host {
        set_if_absent(&mut headers, FORWARDED_HOST, host);
    }
    let subset = SubsetHint::All;
    RequestHead { method, path_and_query, headers, subset, end_of_stream, received }
}

/// Removes what belongs to the connection on which a head came.
pub(crate) fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let connection: Vec<HeaderValue> = match headers.entry(header::CONNECTION) {
        Entry::Occupied(entry) => entry.remove_entry_mult().1.collect(),
        Entry::Vacant(_) => Vec::new(),
    };
    for value in &connection {
        for name in value.as_bytes().split(|byte| *byte == b',') {
            // `close` and `keep-alive` are no headers, or are removed anyway.
            if let Ok(name) = HeaderName::from_bytes(name.trim_ascii()) {
                headers.remove(name);
            }
        }
    }
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
}

fn names_token(headers: &HeaderMap, name: &HeaderName, token: &[u8]) -> bool {
    tokens(headers, name).any(|listed| listed.eq_ignore_ascii_case(token))
}

/// What a header lists, over all its lines.
fn tokens<'h>(
    headers: &'h HeaderMap,
    name: &HeaderName,
) -> impl Iterator<Item = &'h [u8]> + use<'h> {
    let values = headers.get_all(name).iter();
    values
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .map(|listed| listed.trim_ascii())
}

/// HTTP/2 clients may send cookies apart; HTTP/1 wants one header (RFC 9113 §8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let mut cookies = headers.get_all(header::COOKIE).iter();
    if cookies.next().is_none() || cookies.next().is_none() {
        return;
    }
    join(headers, &header::COOKIE, b"; ");
}

/// Appends the client's address to those of the proxies before.
fn forwarded_for(headers: &mut HeaderMap, client: IpAddr) {
    let client = client.to_canonical().to_string();
    if let Ok(value) = HeaderValue::from_maybe_shared(Bytes::from(client)) {
        let had_some = headers.append(FORWARDED_FOR, value);
        if had_some {
            join(headers, &FORWARDED_FOR, b", ");
        }
    }
}

/// Makes one line of all lines of a header.
fn join(headers: &mut HeaderMap, name: &HeaderName, separator: &[u8]) {
    let values: Vec<&[u8]> = headers.get_all(name).iter().map(|value| value.as_bytes()).collect();
    let joined = Bytes::from(values.join(separator));
    if let Ok(value) = HeaderValue::from_maybe_shared(joined) {
        headers.insert(name, value);
    }
}

fn set_if_absent(headers: &mut HeaderMap, name: HeaderName, value: HeaderValue) {
    headers.entry(name).or_insert(value);
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn parts(method: &str, uri: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn headers(of: &[(&str, &str)]) -> HeaderMap {
        let peer = Peer {
            addr: "[::ffff:192.0.2.7]:999".parse().unwrap(),
            local: "127.0.0.1:80".parse().unwrap(),
            tls: true,
        };
        let mut parts = parts("POST", "/v1/completions", of);
        parts.extensions.insert(peer);
        head(parts, "/".into(), false, Stamp::ORIGIN).headers
    }

    #[test]
    fn what_belongs_to_the_connection_goes_no_further() {
        let headers = headers(&[
            ("connection", "keep-alive, X-Own"),
            ("connection", "close,, x-other ,(odd)"),
            ("x-own", "1"),
            ("x-other", "2"),
            ("x-kept", "3"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("proxy-authorization", "Basic x"),
            ("upgrade", "h2c"),
            ("http2-settings", "AAMAAABkAAQAAP__"),
            ("expect", "100-continue"),
            ("host", "router.example"),
        ]);
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-kept"]);
    }

    #[test]
    fn duplicates_and_odd_bytes_are_kept() {
        let headers = headers(&[("x-a", "1"), ("x-b", "\u{e4}"), ("x-a", "2")]);
        let values: Vec<_> = headers.get_all("x-a").iter().collect();
        assert_eq!(values, ["1", "2"]);
        assert_eq!(headers["x-b"].as_bytes(), "\u{e4}".as_bytes());
    }

    #[test]
    fn the_client_is_added_to_those_before_it() {
        assert_eq!(headers(&[])["x-forwarded-for"], "192.0.2.7");
        let list = headers(&[("x-forwarded-for", "a, b"), ("x-forwarded-for", "c")]);
        let all: Vec<_> = list.get_all("x-forwarded-for").iter().collect();
        assert_eq!(all, ["a, b, c, 192.0.2.7"]);
        assert_eq!(list["x-forwarded-proto"], "https");
        let behind = headers(&[("x-forwarded-proto", "http"), ("x-forwarded-host", "first")]);
        assert_eq!(
            (&behind["x-forwarded-proto"], &behind["x-forwarded-host"]),
            (&HeaderValue::from_static("http"), &HeaderValue::from_static("first"))
        );
    }

    #[test]
    fn cookies_are_joined() {
        let headers = headers(&[("cookie", "a=1"), ("cookie", "b=2; c=3")]);
        let all: Vec<_> = headers.get_all("cookie").iter().collect();
        assert_eq!(all, ["a=1; b=2; c=3"]);
    }

    #[test]
    fn the_authority_of_the_target_is_the_host() {
        let parts = parts("GET", "http://asked.example:81/x?y", &[("host", "other.example")]);
        let path = path_and_query(&parts);
        let head = head(parts, path, true, Stamp::ORIGIN);
        assert_eq!(&*head.path_and_query, "/x?y");
        assert_eq!(head.headers["x-forwarded-host"], "asked.example:81");
    }

    #[test]
    fn what_is_not_done_is_said() {
        let check = |method, headers: &[(&str, &str)], ok| {
            let verdict = check(&parts(method, "/", headers));
            assert_eq!(verdict.is_ok(), ok, "{method} {headers:?}");
            if let Err(rejection) = verdict {
                assert_eq!(rejection.code.http_status(), 501);
            }
        };
        check("POST", &[], true);
        check("CONNECT", &[], false);
        check("TRACE", &[], false);
        check("GET", &[("upgrade", "websocket")], false);
        check("GET", &[("upgrade", "h2c")], true);
        check("GET", &[("upgrade", "h2c, websocket")], false);
        check("POST", &[("transfer-encoding", "Chunked")], true);
        check("POST", &[("transfer-encoding", "gzip, chunked")], false);
        check("POST", &[("transfer-encoding", "gzip"), ("transfer-encoding", "chunked")], false);
    }

    #[test]
    fn two_hosts_are_refused() {
        let refused = check(&parts("POST", "/", &[("host", "a"), ("host", "b")])).unwrap_err();
        assert_eq!(refused.code.http_status(), 400);
        assert!(check(&parts("POST", "/", &[("host", "a")])).is_ok());
    }

    #[test]
    fn what_the_client_can_do_is_noted() {
        let hop = |of: &[(&str, &str)]| Hop::of(&parts("GET", "/", of));
        assert_eq!(hop(&[]), Hop { is_http1: true, ..Hop::default() });
        let able = hop(&[("te", "gzip, Trailers"), ("expect", "100-Continue")]);
        assert!(able.wants_trailers && able.expects_continue);
    }
}
