//! Fakes around the data layer: names that resolve as a test says, and a pool that remembers.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use futures_util::{FutureExt, future::BoxFuture};
use parking_lot::Mutex;
use router_core::EndpointSpec;
use router_framework::{EndpointSink, Resolve};
use tokio::sync::watch;

/// A name service that knows what a test tells it.
#[derive(Debug, Default)]
pub struct FakeResolver {
    names: Mutex<BTreeMap<String, Vec<IpAddr>>>,
}

impl FakeResolver {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// From here on `name` has these addresses; none makes it unknown.
    pub fn set(&self, name: &str, addresses: &[&str]) {
        let parse = |address: &&str| {
            address.parse().unwrap_or_else(|_| panic!("{address:?} is no IP address"))
        };
        let addresses = addresses.iter().map(parse).collect();
        self.names.lock().insert(name.to_owned(), addresses);
    }
}

impl Resolve for FakeResolver {
    fn resolve<'a>(&'a self, host: &'a str) -> BoxFuture<'a, Result<Vec<IpAddr>, String>> {
        let known = self.names.lock().get(host).filter(|known| !known.is_empty()).cloned();
        std::future::ready(known.ok_or_else(|| format!("{host} is unknown"))).boxed()
    }
}

/// Takes what a discovery reports.
#[derive(Debug)]
pub struct RecordedPool {
    reports: watch::Sender<(usize, Vec<EndpointSpec>)>,
}

impl RecordedPool {
    pub fn new() -> Arc<Self> {
        Arc::new(Self { reports: watch::Sender::new((0, Vec::new())) })
    }

    pub fn n_reports(&self) -> usize {
        self.reports.borrow().0
    }

    /// What was reported last.
    pub fn endpoints(&self) -> Vec<EndpointSpec> {
        self.reports.borrow().1.clone()
    }

    /// Waits until there have been `n_reports` in all, and gives the last.
    pub async fn report(&self, n_reports: usize) -> Vec<EndpointSpec> {
        let mut reports = self.reports.subscribe();
        match reports.wait_for(|(n, _)| *n >= n_reports).await {
            Ok(report) => report.1.clone(),
            Err(error) => panic!("the pool has gone: {error}"),
        }
    }
}

impl EndpointSink for RecordedPool {
    fn replace(&self, endpoints: Vec<EndpointSpec>) {
        self.reports.send_modify(|report| *report = (report.0 + 1, endpoints));
    }
}
