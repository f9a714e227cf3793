//! The file's text as entries, each right or with what is wrong about it.

use std::net::IpAddr;

use router_core::Labels;
use router_framework::document::{
    diagnostics::Style,
    tree::{self, Node, Value},
};

/// Namespace of an endpoint that names none.
const DEFAULT_NAMESPACE: &str = "default";

/// Longest name, namespace or host, in bytes, as DNS has it.
const MAX_NAME_BYTES: usize = 253;

/// What a file lists.
#[derive(Debug, Default)]
pub(super) struct Listing {
    pub(super) entries: Vec<Entry>,
    pub(super) bad: Vec<BadEntry>,
}

/// One endpoint as it is written.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    pub(super) line: u32,
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) host: Host,
    pub(super) port: u16,
    pub(super) labels: Labels,
    /// Where metrics are, in the parts that differ.
    pub(super) metrics_host: Option<Host>,
    pub(super) metrics_port: Option<u16>,
}

/// An entry that cannot be used.
#[derive(Debug, PartialEq)]
pub(super) struct BadEntry {
    /// `namespace/name`, where the entry says at least that.
    pub(super) id: Option<String>,
    pub(super) line: u32,
    pub(super) message: String,
}

/// Where a server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Host {
    Ip(IpAddr),
    Name(String),
}

impl Entry {
    /// `namespace/name`.
    pub(super) fn id(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

/// A fault of one entry: line and message.
type Fault = (u32, String);

/// Reads a file. The error, with places, says why it lists nothing at all.
pub(super) fn parse(path: &str, contents: &[u8]) -> Result<Listing, String> {
    let (root, diagnostics) = tree::parse(path, contents);
    if diagnostics.has_errors() {
        return Err(diagnostics.render(Style::Plain).trim_end().to_owned());
    }
    // A file that is being written may be empty for a moment; a pool that is meant to be empty says so.
    let Some(list) = root.as_ref().and_then(|root| root.get("endpoints")) else {
        return Err(format!(
            "{path}: there is no list `endpoints`; write `endpoints: []` for none"
        ));
    };
    let Some(list) = list.as_list() else {
        return Err(format!("{path}:{}: `endpoints` must be a list", list.span.line));
    };
    let mut listing = Listing::default();
    for node in list {
        match entry(node) {
            Ok(entry) => listing.entries.push(entry),
            Err((line, message)) => {
                let id = identity(node).ok().map(|(namespace, name)| format!("{namespace}/{name}"));
                listing.bad.push(BadEntry { id, line, message });
            }
        }
    }
    Ok(listing)
}

fn entry(node: &Node) -> Result<Entry, Fault> {
    if node.as_map().is_none() {
        return Err((
            node.span.line,
            format!("an endpoint must be a map, this is {}", node.kind()),
        ));
    }
    let (namespace, name) = identity(node)?;
    let required = |key: &str| {
        node.get(key).ok_or_else(|| (node.span.line, format!("endpoint `{name}` has no {key}")))
    };
    let optional_port =
        node.get("metricsPort").map(|value| port(value, "metricsPort")).transpose()?;
    let metrics_host = node.get("metricsAddress").map(|value| host(value, "metricsAddress"));
    Ok(Entry {
        line: node.span.line,
        host: host(required("address")?, "address")?,
        port: port(required("port")?, "port")?,
        labels: node.get("labels").map(labels).transpose()?.unwrap_or_default(),
        metrics_host: metrics_host.transpose()?,
        metrics_port: optional_port,
        namespace,
        name,
    })
}

fn identity(node: &Node) -> Result<(String, String), Fault> {
    let name =
        node.get("name").ok_or_else(|| (node.span.line, "an endpoint has no name".to_owned()))?;
    let namespace = node.get("namespace").map(|node| plain_name(node, "namespace")).transpose()?;
    Ok((namespace.unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned()), plain_name(name, "name")?))
}

/// A name that can stand in `namespace/name`, in labels of metrics and in logs.
fn plain_name(node: &Node, key: &str) -> Result<String, Fault> {
    let fault = |message: &str| Err((node.span.line, format!("{key} {message}")));
    let Some(text) = text(node) else { return fault("must be a text; put it in quotes") };
    if text.is_empty() || text.len() > MAX_NAME_BYTES {
        return fault("must have 1 to 253 bytes");
    }
    if text.contains(|c: char| c == '/' || c.is_whitespace() || c.is_control()) {
        return fault("must have no slash and no blanks");
    }
    Ok(text.to_owned())
}

fn host(node: &Node, key: &str) -> Result<Host, Fault> {
    let wrong = || {
        (node.span.line, format!("{key} must be an IPv4 address, an IPv6 address or a DNS name"))
    };
    let text = node.as_str().ok_or_else(wrong)?.trim();
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    if let Ok(address) = bare.parse::<IpAddr>() {
        return Ok(Host::Ip(address));
    }
    is_dns_name(text).then(|| Host::Name(text.to_ascii_lowercase())).ok_or_else(wrong)
}

/// Whether a text is a host name. One whose last part is a number is a misspelt address.
fn is_dns_name(text: &str) -> bool {
    let name = text.strip_suffix('.').unwrap_or(text);
    let is_part = |part: &str| {
        let inside = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        (1..=63).contains(&part.len())
            && part.bytes().all(inside)
            && !part.starts_with('-')
            && !part.ends_with('-')
    };
    let last = name.rsplit('.').next().unwrap_or_default();
    name.len() <= MAX_NAME_BYTES
        && name.split('.').all(is_part)
        && !last.bytes().all(|byte| byte.is_ascii_digit())
}

/// A port as a number or a text (defect A-32 of `spec/scheduling.md`).
fn port(node: &Node, key: &str) -> Result<u16, Fault> {
    let number = match &node.value {
        Value::String(text) => text.trim().parse().ok(),
        _ => node.as_i64().and_then(|number| u16::try_from(number).ok()),
    };
    let wrong = || (node.span.line, format!("{key} must be a number from 1 to 65535"));
    number.filter(|port| *port > 0).ok_or_else(wrong)
}

fn labels(node: &Node) -> Result<Labels, Fault> {
    let Some(map) = node.as_map() else {
        return Err((node.span.line, "labels must be a map".to_owned()));
    };
    let one = |entry: &tree::Entry| match text(&entry.value) {
        Some(value) => Ok((entry.key.clone(), value.to_owned())),
        None => {
            let message = format!("label `{}` must be a text; put it in quotes", entry.key);
            Err((entry.value.span.line, message))
        }
    };
    map.entries().map(one).collect()
}

/// A text. What YAML takes for a number or a boolean, such as `no` and `1.10`, would not be what was written.
fn text(node: &Node) -> Option<&str> {
    if node.is_null() { Some("") } else { node.as_str() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(fields: &str) -> Result<Entry, BadEntry> {
        let text = format!("endpoints:\n- {{name: a, {fields}}}\n");
        let mut listing = parse("f.yaml", text.as_bytes()).unwrap();
        listing.entries.pop().ok_or_else(|| listing.bad.remove(0))
    }

    #[test]
    fn a32_addresses_of_every_kind_are_read() {
        let check = |address: &str, expected: Host| {
            let entry = one(&format!("address: '{address}', port: 1")).unwrap();
            assert_eq!(entry.host, expected, "{address}");
        };
        let ip = |text: &str| Host::Ip(text.parse().unwrap());
        check("10.0.0.1", ip("10.0.0.1"));
        check("::1", ip("::1"));
        check("[2001:db8::2]", ip("2001:db8::2"));
        check("2001:DB8:0::2", ip("2001:db8::2"));
        check("vllm-0", Host::Name("vllm-0".to_owned()));
        check(
            "VLLM-0.my_ns.svc.cluster.local.",
            Host::Name("vllm-0.my_ns.svc.cluster.local.".to_owned()),
        );
    }

    #[test]
    fn addresses_that_are_none_are_faults() {
        for address in [
            "",
            "10.0.0.256",
            "10.0.0",
            "a b",
            "http://x",
            "x:80",
            "fe80::1%eth0",
            "-a",
            "a..b",
            "[a]",
        ] {
            let bad = one(&format!("address: '{address}', port: 1")).unwrap_err();
            assert!(bad.message.starts_with("address must be"), "{address}: {}", bad.message);
            assert_eq!((bad.line, bad.id.as_deref()), (2, Some("default/a")), "{address}");
        }
    }

    #[test]
    fn a32_ports_are_numbers_or_texts() {
        for port in ["8000", "'8000'", "\" 8000 \"", "8000.0"] {
            assert_eq!(one(&format!("address: h, port: {port}")).unwrap().port, 8000, "{port}");
        }
        for port in ["0", "65536", "-1", "http", "'0'", "1.5", "[]", "true"] {
            let bad = one(&format!("address: h, port: {port}")).unwrap_err();
            assert_eq!(bad.message, "port must be a number from 1 to 65535", "{port}");
        }
    }

    #[test]
    fn the_rest_of_an_entry() {
        let entry = one(
            "namespace: ns, address: h, port: 1, labels: {a: b, v: '7', t: 'true'}, metricsAddress: '::2', \
             metricsPort: '9', weight: 3",
        )
        .unwrap();
        assert_eq!(entry.id(), "ns/a");
        let labels: Vec<_> = entry.labels.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(labels, [("a", "b"), ("t", "true"), ("v", "7")]);
        assert_eq!(entry.metrics_port, Some(9));
        assert_eq!(entry.metrics_host, Some(Host::Ip("::2".parse().unwrap())));
    }

    #[test]
    fn faults_have_their_line() {
        let text = "endpoints:\n- name: a\n  address: 10.0.0.1\n  port: 1\n- address: 10.0.0.2\n  port: 1\n\
            - name: b/c\n  address: 10.0.0.2\n  port: 1\n- name: d\n  port: 1\n- name: e\n  address: h\n  port: 1\n\
            \x20 labels:\n    x: [1]\n- just text\n";
        let listing = parse("f.yaml", text.as_bytes()).unwrap();
        assert_eq!(listing.entries.len(), 1);
        let bad: Vec<_> = listing
            .bad
            .iter()
            .map(|bad| (bad.line, bad.id.as_deref(), bad.message.as_str()))
            .collect();
        assert_eq!(
            bad,
            [
                (5, None, "an endpoint has no name"),
                (7, None, "name must have no slash and no blanks"),
                (10, Some("default/d"), "endpoint `d` has no address"),
                (16, Some("default/e"), "label `x` must be a text; put it in quotes"),
                (17, None, "an endpoint must be a map, this is a string"),
            ]
        );
    }

    #[test]
    fn a_file_without_a_list_is_a_fault_of_the_file() {
        let check = |text: &str, message: &str| {
            let error = parse("f.yaml", text.as_bytes()).unwrap_err();
            assert!(error.contains(message), "{text:?}: {error}");
        };
        check("", "the document is empty");
        check("endpoints:\n", "there is no list `endpoints`");
        check("other: 1\n", "there is no list `endpoints`");
        check("endpoints: 7\n", "f.yaml:1: `endpoints` must be a list");
        check("endpoints: [\n", "f.yaml");
        assert!(parse("f.yaml", b"endpoints: []\n").unwrap().entries.is_empty());
        assert_eq!(
            parse("f.json", br#"{"endpoints":[{"name":"a","address":"h","port":1}]}"#)
                .unwrap()
                .entries
                .len(),
            1
        );
    }
}
