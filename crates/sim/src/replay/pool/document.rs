//! From a pool file to a pool.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use router_core::{Stamp, endpoint::Labels};
use router_framework::document::{
    Diagnostics,
    suggest::nearest,
    tree::{self, Node},
};
use serde_json::{Map, Value};

use super::{
    Change, MAX_EVENTS, MAX_SERVERS, Pool, PoolEvent, Scrape, ServerKind,
    fields::{Fields, unknown},
};
use crate::model::Profile;

const CHANGES: [&str; 4] = ["slow", "restart", "join", "leave"];
/// A larger factor stops a server rather than slowing it down.
const MAX_FACTOR: f64 = 1e4;
const MAX_NAME_BYTES: usize = 63;

/// A pool file that cannot be used.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the pool cannot be used\n{}", .0.to_string().trim_end())]
pub struct PoolError(pub Diagnostics);

/// The servers of one entry.
struct Group<'a> {
    name: &'a str,
    first: usize,
    count: usize,
}

pub(super) fn parse(name: &str, text: &[u8]) -> Result<Pool, PoolError> {
    let (root, mut diagnostics) = tree::parse(name, text);
    let pool = root
        .filter(|_| !diagnostics.has_errors())
        .and_then(|root| pool(&root, &mut diagnostics))
        .filter(|_| !diagnostics.has_errors());
    pool.ok_or(PoolError(diagnostics))
}

fn pool(root: &Node, diagnostics: &mut Diagnostics) -> Option<Pool> {
    let fields = Fields::of(root, "", &["scrape", "servers", "events"], diagnostics)?;
    let scrape = fields.node("scrape").map_or_else(
        || Some(Scrape::default()),
        |node| scrape(node, &fields.path("scrape"), diagnostics),
    );
    let mut servers = Vec::new();
    let mut groups = Vec::new();
    for (node, path) in list(&fields, "servers", diagnostics) {
        group(node, &path, &mut servers, &mut groups, diagnostics);
    }
    if groups.is_empty() && !diagnostics.has_errors() {
        let message = "the pool has no servers";
        let example = || Some("for example `servers: [{name: h100, count: 8}]`".to_owned());
        diagnostics.error(root.span, "servers", message, example);
    }
    let listed = list(&fields, "events", diagnostics);
    let mut events = Vec::new();
    for (nth, (node, path)) in listed.iter().enumerate() {
        if let Some((at, named, what)) = event(node, path, &servers, &groups, diagnostics) {
            events.extend(named.map(|server| (PoolEvent { at, server, what }, nth)));
        }
        if events.len() > MAX_EVENTS {
            let message = format!("more than {MAX_EVENTS} events, counted for each server");
            diagnostics.error(node.span, path, message, || None);
            break;
        }
    }
    events.sort_by_key(|(event, _)| event.at);
    for (nth, state) in changing_nothing(&events, servers.len()) {
        if let Some((node, path)) = listed.get(nth) {
            let message = format!("changes nothing: {state} by then");
            let help =
                || Some("leave the event out, or mend its time or that of another".to_owned());
            diagnostics.error(node.span, path, message, help);
        }
    }
    let events = events.into_iter().map(|(event, _)| event).collect();
    Some(Pool { servers, events, scrape: scrape? })
}

/// The entries of a list, each with its path.
fn list<'a>(
    fields: &Fields<'a>,
    key: &str,
    diagnostics: &mut Diagnostics,
) -> Vec<(&'a Node, String)> {
    let Some(node) = fields.node(key) else { return Vec::new() };
    let Some(list) = node.as_list() else {
        let message = format!("expected a list, found {}", node.kind());
        diagnostics.error(node.span, fields.path(key), message, || None);
        return Vec::new();
    };
    list.iter().enumerate().map(|(n, node)| (node, format!("{}[{n}]", fields.path(key)))).collect()
}

fn scrape(node: &Node, path: &str, diagnostics: &mut Diagnostics) -> Option<Scrape> {
    let fields = Fields::of(node, path, &["interval", "delay"], diagnostics)?;
    let mut scrape = Scrape::default();
    if fields.node("interval").and_then(Node::as_str) == Some("never") {
        scrape.interval = None;
    } else if fields.node("interval").is_some() {
        scrape.interval = Some(fields.duration("interval", diagnostics)?);
    }
    if fields.node("delay").is_some() {
        scrape.delay = fields.duration("delay", diagnostics)?;
    }
    if let Err(message) = scrape.check() {
        diagnostics.error(node.span, path, message, || None);
        return None;
    }
    if scrape.interval.is_none() && !scrape.delay.is_zero() {
        let message = "servers that are never scraped have no scrapes that could be late";
        let help = || Some("leave `delay` out, or say how often they are scraped".to_owned());
        diagnostics.error(node.span, path, message, help);
        return None;
    }
    Some(scrape)
}

/// Adds the servers of one entry.
fn group<'a>(
    node: &'a Node,
    path: &str,
    servers: &mut Vec<ServerKind>,
    groups: &mut Vec<Group<'a>>,
    diagnostics: &mut Diagnostics,
) {
    let keys = ["name", "count", "labels", "profile"];
    let Some(fields) = Fields::of(node, path, &keys, diagnostics) else { return };
    let name = fields.wanted("name", diagnostics);
    let count = if fields.node("count").is_some() {
        fields.whole("count", 1..=MAX_SERVERS as i64, diagnostics)
    } else {
        Some(1)
    };
    let labels = labels(&fields, diagnostics);
    let profile = match fields.node("profile") {
        Some(node) => profile(node, &fields.path("profile"), diagnostics),
        None => Some(Profile::default()),
    };
    let (Some(name), Some(count), Some(profile)) = (name, count, profile) else { return };
    let span = fields.node("name").map_or(node.span, |node| node.span);
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.len() > MAX_NAME_BYTES || !name.chars().all(is_plain) {
        let message = format!(
            "a name has 1 to {MAX_NAME_BYTES} letters, digits, dashes, underscores and dots"
        );
        return diagnostics.error(span, fields.path("name"), message, || None);
    }
    let count = count as usize;
    if servers.len() + count > MAX_SERVERS {
        let message = format!("more than {MAX_SERVERS} servers");
        return diagnostics.error(node.span, path, message, || None);
    }
    let taken = |candidate: &str| servers.iter().any(|server| *server.name == *candidate);
    let clash = groups.iter().any(|group| group.name == name)
        || taken(name)
        || (0..count).any(|nth| taken(&format!("{name}-{nth}")));
    if clash {
        let message = format!("the name `{name}` is taken, or one of its servers' is");
        return diagnostics.error(span, fields.path("name"), message, || None);
    }
    groups.push(Group { name, first: servers.len(), count });
    let kind: Arc<str> = name.into();
    servers.extend((0..count).map(|nth| ServerKind {
        name: Arc::from(format!("{name}-{nth}")),
        kind: Arc::clone(&kind),
        labels: labels.clone(),
        profile: profile.clone(),
    }));
}

fn labels(fields: &Fields<'_>, diagnostics: &mut Diagnostics) -> Labels {
    let mut labels = Labels::new();
    let Some(node) = fields.node("labels") else { return labels };
    let path = fields.path("labels");
    let Some(map) = node.as_map() else {
        let message = format!("expected a map, found {}", node.kind());
        diagnostics.error(node.span, path, message, || None);
        return labels;
    };
    for entry in map.entries() {
        match entry.value.as_str() {
            Some(text) => drop(labels.insert(entry.key.clone(), text.to_owned())),
            None => {
                let message = format!("expected a string, found {}; quote it", entry.value.kind());
                let path = format!("{path}.{}", entry.key);
                diagnostics.error(entry.value.span, path, message, || None);
            }
        }
    }
    labels
}

/// Reads the keys one by one, so that each fault has its place.
fn profile(node: &Node, path: &str, diagnostics: &mut Diagnostics) -> Option<Profile> {
    let Some(map) = node.as_map() else {
        let message = format!("expected a map, found {}", node.kind());
        diagnostics.error(node.span, path, message, || None);
        return None;
    };
    let known = serde_json::to_value(Profile::default()).ok()?;
    let known: Vec<&str> = known.as_object()?.keys().map(String::as_str).collect();
    let mut keys = Map::new();
    let mut is_whole = true;
    for entry in map.entries() {
        if !known.contains(&entry.key.as_str()) {
            unknown(entry, path, &known, diagnostics);
            is_whole = false;
            continue;
        }
        let value = entry.value.to_json();
        let alone = Map::from_iter([(entry.key.clone(), value.clone())]);
        let fault = match serde_json::from_value::<Profile>(Value::Object(alone)) {
            Ok(alone) => alone.validate().err().map(|error| error.to_string()),
            Err(error) => Some(error.to_string()),
        };
        if let Some(fault) = fault {
            let path = format!("{path}.{}", entry.key);
            diagnostics.error(entry.value.span, path, fault, || None);
            is_whole = false;
        }
        keys.insert(entry.key.clone(), value);
    }
    serde_json::from_value(Value::Object(keys)).ok().filter(|_| is_whole)
}

/// Those who join although they are members, or leave although they are none, by their place in the file. Who leaves
/// as one of a kind may have left alone before. `events` are in the order of time, each with its place.
fn changing_nothing(
    events: &[(PoolEvent, usize)],
    n_servers: usize,
) -> BTreeMap<usize, &'static str> {
    let mut is_member: Vec<Option<bool>> = vec![None; n_servers];
    let mut idle = BTreeMap::new();
    let mut effective = BTreeSet::new();
    for (event, nth) in events {
        let Some(was) = is_member.get_mut(event.server) else { continue };
        let (joins, state) = match event.what {
            Change::Join => (true, "all that it names have joined"),
            Change::Leave => (false, "all that it names have left"),
            Change::Slow { .. } | Change::Restart { .. } => continue,
        };
        if was.replace(joins) == Some(joins) {
            idle.insert(*nth, state);
        } else {
            effective.insert(*nth);
        }
    }
    idle.retain(|nth, _| !effective.contains(nth));
    idle
}

/// An event's time, the servers that it is about, and what happens.
fn event(
    node: &Node,
    path: &str,
    servers: &[ServerKind],
    groups: &[Group<'_>],
    diagnostics: &mut Diagnostics,
) -> Option<(Stamp, std::ops::Range<usize>, Change)> {
    let fields = Fields::of(node, path, &["at", "server", "do", "factor", "down"], diagnostics)?;
    if fields.node("at").is_none() {
        diagnostics.error(node.span, path, "`at` is missing", || None);
    }
    let at = fields.duration("at", diagnostics);
    let named = fields.wanted("server", diagnostics).and_then(|name| {
        let found = named(name, servers, groups);
        if found.is_none() {
            let span = fields.node("server").map_or(node.span, |node| node.span);
            let names = groups.iter().map(|group| group.name);
            let near = nearest(name, names.chain(servers.iter().map(|server| &*server.name)));
            let help = || near.map(|near| format!("did you mean `{near}`?"));
            let message = format!("no server and no kind is called `{name}`");
            diagnostics.error(span, fields.path("server"), message, help);
        }
        found
    });
    let what = change(&fields, diagnostics);
    Some((Stamp::ORIGIN + at?, named?, what?))
}

fn named(
    name: &str,
    servers: &[ServerKind],
    groups: &[Group<'_>],
) -> Option<std::ops::Range<usize>> {
    if let Some(group) = groups.iter().find(|group| group.name == name) {
        return Some(group.first..group.first + group.count);
    }
    let at = servers.iter().position(|server| &*server.name == name)?;
    Some(at..at + 1)
}

fn change(fields: &Fields<'_>, diagnostics: &mut Diagnostics) -> Option<Change> {
    let what = fields.wanted("do", diagnostics)?;
    let belongs = [("factor", "slow"), ("down", "restart")];
    for (key, of) in belongs {
        if let Some(node) = fields.node(key).filter(|_| what != of) {
            let message = format!("`{key}` belongs to `do: {of}`");
            diagnostics.error(node.span, fields.path(key), message, || None);
        }
    }
    match what {
        "slow" => {
            let factor = fields.node("factor");
            let valid = factor
                .and_then(Node::as_f64)
                .filter(|factor| *factor > 0.0 && *factor <= MAX_FACTOR);
            if valid.is_none() {
                let path = fields.path("factor");
                let span = factor.or_else(|| fields.node("do")).map(|node| node.span)?;
                let message = format!("`do: slow` needs a factor above 0 and up to {MAX_FACTOR}");
                diagnostics.error(span, path, message, || None);
            }
            valid.map(|factor| Change::Slow { factor })
        }
        "restart" if fields.node("down").is_none() => {
            Some(Change::Restart { down: Duration::ZERO })
        }
        "restart" => fields.duration("down", diagnostics).map(|down| Change::Restart { down }),
        "join" => Some(Change::Join),
        "leave" => Some(Change::Leave),
        other => {
            let span = fields.node("do").map(|node| node.span)?;
            let near = nearest(other, CHANGES);
            let help = || near.map(|near| format!("did you mean `{near}`?"));
            let message = format!("nothing is called `{other}`; known: {}", CHANGES.join(", "));
            diagnostics.error(span, fields.path("do"), message, help);
            None
        }
    }
}

#[cfg(test)]
mod tests;
