//! Keeps the endpoints that the client names in a header. For conformance tests only.
//!
//! The header `test-epp-endpoint-selection` holds a comma-separated list of `ip` or `ip:port`.
//! An entry with a port keeps exactly that endpoint, an entry without keeps the first endpoint of that address; each address is taken once.
//! Without the header, or with a blank one, no endpoint is left and the request is refused with 503 `rejected-no-endpoints`.
//!
//! It reads the request's headers and the endpoints' addresses.
//!
//! Never use it where clients are not trusted: it lets them choose the endpoint.
//!
//! # Example
//!
//! ```yaml
//! plugins:
//! - type: header-based-testing-filter
//! schedulingProfiles:
//! - name: default
//!   plugins:
//!   - pluginRef: header-based-testing-filter
//! ```

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use http::HeaderName;
use router_core::{Endpoint, Position};
use router_framework::{
    BuildCx, BuildError, Filter, FilterKind, Instance, NoParams, PluginDef, RequestCx, Role,
};
use smallvec::SmallVec;

pub const PLUGIN: PluginDef =
    PluginDef::new::<NoParams>("header-based-testing-filter", &[Role::Filter], file!(), build);

const HEADER: HeaderName = HeaderName::from_static("test-epp-endpoint-selection");

/// Entries of the header that are looked at; the rest is ignored.
const MAX_ENTRIES: usize = 64;

struct HeaderBasedTesting;

fn build(_: &mut BuildCx<'_>) -> Result<Instance, BuildError> {
    Ok(Instance::new().filter(Arc::new(HeaderBasedTesting)))
}

impl Filter for HeaderBasedTesting {
    fn kind(&self) -> FilterKind {
        FilterKind::Constraint
    }

    fn filter(&self, cx: &RequestCx<'_>, positions: &mut Vec<Position>) {
        let mut kept = SmallVec::<[(IpAddr, Position); 8]>::new();
        let header = cx.request.header(&HEADER).unwrap_or_default();
        for wanted in header.split(',').take(MAX_ENTRIES).filter_map(Wanted::parse) {
            let found = positions
                .iter()
                .find(|&&at| cx.endpoint(at).is_some_and(|endpoint| wanted.names(endpoint)));
            if let Some(&at) = found
                && kept.iter().all(|(ip, _)| *ip != wanted.ip)
            {
                kept.push((wanted.ip, at));
            }
        }
        positions.retain(|at| kept.iter().any(|(_, kept)| kept == at));
    }
}

/// One entry of the header.
struct Wanted {
    ip: IpAddr,
    port: Option<u16>,
}

impl Wanted {
    fn parse(entry: &str) -> Option<Self> {
        let entry = entry.trim();
        if let Ok(address) = entry.parse::<SocketAddr>() {
            return Some(Self { ip: address.ip(), port: Some(address.port()) });
        }
        let bare = entry.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(entry);
        Some(Self { ip: bare.parse().ok()?, port: None })
    }

    fn names(&self, endpoint: &Endpoint) -> bool {
        let spec = endpoint.spec();
        spec.address.parse() == Ok(self.ip) && self.port.is_none_or(|port| port == spec.port)
    }
}

#[cfg(test)]
mod tests {
    use router_testkit::scheduling::{EndpointFixture, SceneBuilder};

    use super::*;

    fn check(header: Option<&str>, kept: &[u32]) {
        let mut builder = SceneBuilder::new();
        let plugin = builder.plugin(&PLUGIN, "");
        let at = |address, port| EndpointFixture::new().at(address, port);
        let mut scene = builder.scene(vec![
            at("10.0.0.1", 8000),
            at("10.0.0.1", 8001),
            at("10.0.0.2", 8000),
            at("fd00::1", 8000),
        ]);
        if let Some(header) = header {
            scene.header("test-epp-endpoint-selection", header);
        }
        scene.assert_kept(&plugin, kept);
    }

    #[test]
    fn named_endpoints_stay_once_per_address() {
        check(Some("10.0.0.2"), &[2]);
        check(Some("10.0.0.1"), &[0]);
        check(Some("10.0.0.1:8001"), &[1]);
        check(Some("10.0.0.1:8001, 10.0.0.1:8000 ,10.0.0.2:8000"), &[1, 2]);
        check(Some("[fd00::1]:8000"), &[3]);
        check(Some("fd00:0::1,[fd00::1]"), &[3]);
    }

    #[test]
    fn nothing_stays_without_a_usable_header() {
        check(None, &[]);
        check(Some("   "), &[]);
        check(Some("10.0.0.9, nonsense, 10.0.0.2:1, :::"), &[]);
    }
}
