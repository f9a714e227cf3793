//! The endpoints that a decision is explained for, from a file as `file-discovery` reads it. An entry may
//! have signals besides, so that scorers have something to go by. Nothing is looked up or connected to.

use std::{path::Path, time::Duration};

use router_core::{EndpointSpec, Signals};
use router_engine::Router;
use router_framework::{
    EndpointSink,
    document::{
        Diagnostics,
        suggest::nearest,
        tree::{self, Node},
    },
};

use crate::{
    cli::UsageError,
    configuration::{Faulty, read_file, style},
};

/// Longest endpoints file, as in `file-discovery`.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// An endpoint and what its metrics are taken to say; none for one that was never scraped.
pub(super) struct Listed {
    pub(super) spec: EndpointSpec,
    signals: Option<Signals>,
}

/// The signals of an entry, as the file calls them.
const SIGNALS: [(&str, fn(&mut Signals, f64)); 5] = [
    ("waiting", |signals, value| signals.waiting = value),
    ("running", |signals, value| signals.running = value),
    ("kvUsage", |signals, value| signals.kv_usage = value),
    ("blockSize", |signals, value| signals.block_size = value),
    ("numBlocks", |signals, value| signals.n_blocks = value),
];

/// Reads the file; the error has every fault with its place.
pub(super) fn read(path: &Path) -> anyhow::Result<Vec<Listed>> {
    let bytes = read_file(path, MAX_FILE_BYTES)?;
    let name = path.display().to_string();
    let (root, mut diagnostics) = tree::parse(&name, &bytes);
    let mut listed = Vec::new();
    if !diagnostics.has_errors() {
        let list = root.as_ref().and_then(|root| root.get("endpoints")).and_then(Node::as_list);
        let Some(list) = list else {
            let message = format!("{name}: there is no list `endpoints`");
            return Err(UsageError(message).into());
        };
        for (n, entry) in list.iter().enumerate() {
            let spec = endpoint(entry, &format!("endpoints[{n}]"), &mut diagnostics);
            let signals = signals(entry, &format!("endpoints[{n}].signals"), &mut diagnostics);
            listed.extend(spec.map(|spec| Listed { spec, signals }));
        }
    }
    if diagnostics.has_errors() {
        return Err(Faulty(diagnostics.render(style()).trim_end().to_owned()).into());
    }
    Ok(listed)
}

/// Puts the endpoints into the pool, as if they had just been scraped.
pub(super) fn set(router: &Router, listed: Vec<Listed>) {
    // The clock's origin means "never".
    let now = router.clock().now() + Duration::from_nanos(1);
    router.datastore().replace(listed.iter().map(|listed| listed.spec.clone()).collect());
    let snapshot = router.datastore().snapshot();
    for Listed { spec, signals } in listed {
        let endpoint = snapshot.by_id(&format!("{}/{}", spec.namespace, spec.name));
        if let (Some(endpoint), Some(signals)) = (endpoint, signals) {
            endpoint.signal_cell().store(Signals { scraped_at: now, ..signals });
        }
    }
}

fn endpoint(entry: &Node, path: &str, diagnostics: &mut Diagnostics) -> Option<EndpointSpec> {
    let mut wanted = |key: &str| {
        let text = entry.get(key).and_then(|node| match node.as_i64() {
            Some(number) => Some(number.to_string()),
            None => node.as_str().map(str::to_owned),
        });
        if text.is_none() {
            let written = entry.as_map().into_iter().flat_map(|map| map.entries());
            let near = nearest(key, written.map(|entry| entry.key.as_str()));
            let help = || near.map(|near| format!("is `{near}` meant to be it?"));
            diagnostics.error(entry.span, path, format!("an endpoint needs `{key}`"), help);
        }
        text
    };
    let (name, address, port) = (wanted("name"), wanted("address"), wanted("port"));
    let port = port.and_then(|text| {
        let port = text.parse().ok().filter(|port: &u16| *port > 0);
        if port.is_none() {
            let span = entry.get("port").map_or(entry.span, |node| node.span);
            let message = "a port is a number from 1 to 65535";
            diagnostics.error(span, format!("{path}.port"), message, || None);
        }
        port
    });
    let namespace = entry.get("namespace").and_then(Node::as_str).unwrap_or("default");
    let spec = EndpointSpec::new(namespace, &name?, &address?, port?);
    let labels = entry.get("labels").and_then(Node::as_map);
    let labels = labels.into_iter().flat_map(|map| map.entries());
    Some(spec.with_labels(
        labels.filter_map(|label| Some((label.key.clone(), label.value.as_str()?.to_owned()))),
    ))
}

fn signals(entry: &Node, path: &str, diagnostics: &mut Diagnostics) -> Option<Signals> {
    let given = entry.get("signals")?;
    let Some(given) = given.as_map() else {
        let message = format!("expected a map, found {}", given.kind());
        diagnostics.error(given.span, path, message, || None);
        return None;
    };
    let mut signals = Signals::default();
    for signal in given.entries() {
        let (key, span) = (&signal.key, signal.value.span);
        let path = format!("{path}.{key}");
        let known = SIGNALS.iter().find(|(name, _)| name == key);
        match (known, signal.value.as_f64()) {
            (Some((_, set)), Some(value)) => set(&mut signals, value),
            (Some(_), None) => {
                let message = format!("expected a number, found {}", signal.value.kind());
                diagnostics.error(span, path, message, || None);
            }
            (None, _) => {
                let near = nearest(key, SIGNALS.iter().map(|(name, _)| *name));
                let help = || near.map(|near| format!("did you mean `{near}`?"));
                diagnostics.error(signal.key_span, path, format!("unknown key `{key}`"), help);
            }
        }
    }
    Some(signals)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(text: &str) -> Result<Vec<Listed>, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        read(file.path()).map_err(|error| error.to_string())
    }

    #[test]
    fn entries_are_endpoints_with_signals() {
        let all = listed(
            "endpoints:\n- {name: a, address: 10.0.0.1, port: \"80\", signals: {waiting: 3}}\n\
             - {name: b, address: ::1, port: 81, labels: {role: decode}}\n",
        );
        let all = all.unwrap();
        assert_eq!((&*all[0].spec.namespace, all[0].spec.port), ("default", 80));
        let signals = all[0].signals.unwrap();
        assert_eq!((signals.waiting, signals.running.is_nan()), (3.0, true));
        assert_eq!(all[1].signals, None);
        assert_eq!(all[1].spec.labels.get("role").map(String::as_str), Some("decode"));
    }

    #[test]
    fn faults_come_all_at_once_with_their_places() {
        let check = |text: &str, said: &[&str]| {
            let error = listed(text).err().unwrap();
            for said in said {
                assert!(error.contains(said), "{said:?} is missing in {error}");
            }
        };
        check("- a\n", &["there is no list `endpoints`"]);
        check("endpoints: [\n", &["2:1: error"]);
        check(
            "endpoints:\n- name: a\n  adress: 10.0.0.1\n  port: 99999\n  signals: {wating: 1, running: x}\n",
            &[
                "2:3: error: endpoints[0]: an endpoint needs `address`",
                "is `adress` meant to be it?",
                "4:9: error: endpoints[0].port: a port is a number from 1 to 65535",
                "endpoints[0].signals.wating: unknown key `wating`",
                "did you mean `waiting`?",
                "endpoints[0].signals.running: expected a number",
            ],
        );
    }
}
