//! The endpoints that the file lists, with the addresses that their names have.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use futures_util::{StreamExt, stream};
use router_core::{EndpointSpec, Stamp, endpoint};
use router_framework::DiscoveryCx;
use router_rt::deadline;

use super::entries::{Entry, Host, Listing};

/// Names are looked up again after this time, or sooner while one is unknown.
const LOOK_UP_INTERVAL: Duration = Duration::from_secs(30);
const RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// Longest time that one name may take.
const LOOK_UP_DEADLINE: Duration = Duration::from_secs(5);

/// Names that are looked up at once.
const MAX_LOOK_UPS: usize = 16;

/// What the last good files and look-ups said.
#[derive(Debug, Default)]
pub(super) struct Members {
    entries: Vec<Entry>,
    addresses: BTreeMap<String, IpAddr>,
    next_look_up: Option<Stamp>,
}

impl Members {
    /// Takes over what a file lists; a bad entry keeps the endpoint of its name as it was. Gives line and
    /// name of entries that replace an earlier one of the same file.
    pub(super) fn adopt(&mut self, listing: Listing) -> Vec<(u32, String)> {
        let mut place: BTreeMap<String, usize> = BTreeMap::new();
        let mut entries: Vec<Entry> = Vec::with_capacity(listing.entries.len());
        let mut repeats = Vec::new();
        for entry in listing.entries {
            let id = entry.id();
            match place.get(&id).and_then(|at| entries.get_mut(*at)) {
                Some(earlier) => {
                    repeats.push((entry.line, id));
                    *earlier = entry;
                }
                None => {
                    place.insert(id, entries.len());
                    entries.push(entry);
                }
            }
        }
        for id in listing.bad.into_iter().filter_map(|bad| bad.id) {
            let before = self.entries.iter().find(|entry| entry.id() == id);
            if let Some(before) = before.filter(|_| !place.contains_key(&id)) {
                place.insert(id, entries.len());
                entries.push(before.clone());
            }
        }
        self.entries = entries;
        let names = self.names();
        self.addresses.retain(|name, _| names.contains(name));
        repeats
    }

    fn names(&self) -> BTreeSet<String> {
        let hosts =
            self.entries.iter().flat_map(|entry| [Some(&entry.host), entry.metrics_host.as_ref()]);
        let name = |host: &Host| match host {
            Host::Name(name) => Some(name.clone()),
            Host::Ip(_) => None,
        };
        hosts.flatten().filter_map(name).collect()
    }

    /// When names are to be looked up again; never where there are none.
    pub(super) fn next_look_up(&self) -> Stamp {
        self.next_look_up.unwrap_or(Stamp::NEVER)
    }

    /// Looks all names up. What is not found keeps its last address.
    pub(super) async fn look_up(&mut self, cx: &DiscoveryCx) {
        let names = self.names();
        if names.is_empty() {
            self.next_look_up = None;
            return;
        }
        let look_up = |name: String| async move {
            let found = deadline(LOOK_UP_DEADLINE, cx.resolve.resolve(&name)).await;
            let found =
                found.unwrap_or_else(|_| Err(format!("no answer within {LOOK_UP_DEADLINE:?}")));
            (name, found)
        };
        let found: Vec<_> =
            stream::iter(names).map(look_up).buffer_unordered(MAX_LOOK_UPS).collect().await;
        let mut all_found = true;
        for (name, found) in found {
            let addresses = found.unwrap_or_else(|error| {
                tracing::warn!(name, error, "the name of an endpoint cannot be looked up");
                Vec::new()
            });
            let Some(first) = addresses.first() else {
                all_found = false;
                continue;
            };
            // Name servers answer in any order: an address that still holds stays.
            let known = self.addresses.get(&name).filter(|known| addresses.contains(known));
            let address = *known.unwrap_or(first);
            self.addresses.insert(name, address);
        }
        let wait = if all_found { LOOK_UP_INTERVAL } else { RETRY_INTERVAL };
        self.next_look_up = Some(cx.clock.now() + wait);
    }

    /// The endpoints whose addresses are known.
    pub(super) fn specs(&self) -> Vec<EndpointSpec> {
        self.entries.iter().filter_map(|entry| self.spec(entry)).collect()
    }

    fn spec(&self, entry: &Entry) -> Option<EndpointSpec> {
        let address = self.address(&entry.host)?.to_string();
        let mut spec = EndpointSpec::new(&entry.namespace, &entry.name, &address, entry.port)
            .with_labels(entry.labels.clone());
        if let Host::Name(name) = &entry.host {
            spec.host = Some(name.as_str().into());
        }
        if entry.metrics_host.is_some() || entry.metrics_port.is_some() {
            let host = entry.metrics_host.as_ref().and_then(|host| self.address(host));
            let host = host.map_or(address, |host| host.to_string());
            let port = entry.metrics_port.unwrap_or(entry.port);
            spec.metrics_authority = Some(endpoint::authority(&host, port).into());
        }
        Some(spec)
    }

    fn address(&self, host: &Host) -> Option<IpAddr> {
        match host {
            Host::Ip(address) => Some(*address),
            Host::Name(name) => self.addresses.get(name).copied(),
        }
    }
}
