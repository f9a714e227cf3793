//! The gRPC health services (`spec/request-path.md` §4.5): every name answers what is true at the moment.
//!
//! Differs from the Go implementation: `liveness` says SERVING for as long as the process works, also while
//! it drains or has no endpoints yet, so that nothing restarts it in the middle of a drain (defects A-37 and
//! A.5#45); the service on the ext-proc port tells the same truth as the one on the health port (A.5#46).

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::{Stream, StreamExt, stream};
use router_proto::health::{
    HealthCheckRequest, HealthCheckResponse, HealthListRequest, HealthListResponse,
    health_check_response::ServingStatus, health_server::Health,
};
use tokio::sync::Semaphore;
use tonic::{Request, Response, Status};

/// Name that Envoy's health check asks for.
pub const EXT_PROC: &str = "envoy.service.ext_proc.v3.ExternalProcessor";
/// Name that asks whether the process works at all.
pub const LIVENESS: &str = "liveness";
/// Names that ask whether requests may come; the empty one is the server as a whole, the last one is what
/// the Helm chart's probes use.
pub const READINESS: [&str; 4] = ["readiness", "", EXT_PROC, "inference-extension"];

/// Watches at once; each costs a timer.
const MAX_WATCHES: usize = 1_024;
/// How often a watch looks for a change.
const WATCH_INTERVAL: Duration = Duration::from_millis(250);

/// Whether the router may be sent requests.
pub trait Readiness: Send + Sync + 'static {
    /// `Err` with the reason when it may not.
    fn ready(&self) -> Result<(), String>;
}

impl<F: Fn() -> Result<(), String> + Send + Sync + 'static> Readiness for F {
    fn ready(&self) -> Result<(), String> {
        self()
    }
}

/// The service.
#[derive(Clone)]
pub struct HealthService {
    readiness: Arc<dyn Readiness>,
    watches: Arc<Semaphore>,
}

impl HealthService {
    pub fn new(readiness: Arc<dyn Readiness>) -> Self {
        Self { readiness, watches: Arc::new(Semaphore::new(MAX_WATCHES)) }
    }

    /// The status of a service; `None` for a name that nobody serves.
    pub fn status(&self, service: &str) -> Option<ServingStatus> {
        if service == LIVENESS {
            return Some(ServingStatus::Serving);
        }
        if !READINESS.contains(&service) {
            return None;
        }
        Some(if self.readiness.ready().is_ok() {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        })
    }
}

fn response(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}

#[tonic::async_trait]
impl Health for HealthService {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let service = request.into_inner().service;
        // Probes of existing manifests use names of their own; Go answers them all.
        let status = self.status(&service).or_else(|| self.status("readiness"));
        Ok(Response::new(response(status.unwrap_or(ServingStatus::ServiceUnknown))))
    }

    async fn list(
        &self,
        _: Request<HealthListRequest>,
    ) -> Result<Response<HealthListResponse>, Status> {
        let names = READINESS.iter().chain([&LIVENESS]);
        let statuses: BTreeMap<_, _> = names
            .filter_map(|name| Some(((*name).to_owned(), response(self.status(name)?))))
            .collect();
        Ok(Response::new(HealthListResponse { statuses: statuses.into_iter().collect() }))
    }

    type WatchStream =
        std::pin::Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let place = Arc::clone(&self.watches)
            .try_acquire_owned()
            .map_err(|_| Status::resource_exhausted("too many watches are open"))?;
        let service = request.into_inner().service;
        let this = self.clone();
        let ticks = stream::unfold(None::<ServingStatus>, move |last| {
            let _held_as_long_as_the_watch = &place;
            let (this, service) = (this.clone(), service.clone());
            async move {
                loop {
                    let status = this.status(&service).or_else(|| this.status("readiness"))?;
                    if last != Some(status) {
                        return Some((Ok(response(status)), Some(status)));
                    }
                    tokio::time::sleep(WATCH_INTERVAL).await;
                }
            }
        });
        Ok(Response::new(ticks.boxed()))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    fn world() -> (HealthService, Arc<AtomicBool>) {
        let ready = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&ready);
        let readiness = move || {
            if seen.load(Ordering::Relaxed) { Ok(()) } else { Err("no endpoints yet".to_owned()) }
        };
        (HealthService::new(Arc::new(readiness)), ready)
    }

    #[test]
    fn a37_a45_liveness_is_not_readiness() {
        let (service, ready) = world();
        assert_eq!(service.status(LIVENESS), Some(ServingStatus::Serving));
        for name in READINESS {
            assert_eq!(service.status(name), Some(ServingStatus::NotServing), "{name}");
        }
        ready.store(true, Ordering::Relaxed);
        assert_eq!(service.status(EXT_PROC), Some(ServingStatus::Serving));
        assert_eq!(service.status("something-else"), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a46_a_watch_tells_of_a_change() {
        let (service, ready) = world();
        let request = Request::new(HealthCheckRequest { service: EXT_PROC.to_owned() });
        let mut watch = service.watch(request).await.unwrap().into_inner();
        let next =
            |item: Option<Result<HealthCheckResponse, Status>>| item.unwrap().unwrap().status();
        assert_eq!(next(watch.next().await), ServingStatus::NotServing);
        ready.store(true, Ordering::Relaxed);
        assert_eq!(next(watch.next().await), ServingStatus::Serving);
    }

    #[tokio::test(start_paused = true)]
    async fn watches_over_the_limit_are_refused() {
        let (service, _ready) = world();
        let watch = || service.watch(Request::new(HealthCheckRequest::default()));
        let mut watches = Vec::new();
        for _ in 0..MAX_WATCHES {
            watches.push(watch().await.unwrap());
        }
        let refused = watch().await.err().unwrap();
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
        watches.pop();
        assert!(watch().await.is_ok());
    }
}
