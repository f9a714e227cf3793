use router_proto::health::health_check_response::ServingStatus;
use router_proto::health::health_server::{Health, HealthServer};
use router_proto::health::{
    HealthCheckRequest, HealthCheckResponse, HealthListRequest, HealthListResponse,
};
use router_testkit::process::{Launch, ProcessError, ReservedPort, START_LIMIT, grpc_status};
use tonic::codegen::tokio_stream::Empty;
use tonic::{Code, Request, Response, Status};

type Outcome = Result<(), Box<dyn std::error::Error>>;

/// Serves the service `picker` and knows no other.
struct Picker;

#[tonic::async_trait]
impl Health for Picker {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        match request.into_inner().service.as_str() {
            "picker" => {
                Ok(Response::new(HealthCheckResponse { status: ServingStatus::Serving.into() }))
            }
            _ => Err(Status::not_found("unknown service")),
        }
    }

    async fn list(
        &self,
        _: Request<HealthListRequest>,
    ) -> Result<Response<HealthListResponse>, Status> {
        Err(Status::unimplemented("list"))
    }

    type WatchStream = Empty<Result<HealthCheckResponse, Status>>;

    async fn watch(
        &self,
        _: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented("watch"))
    }
}

#[tokio::test]
async fn readiness_is_what_the_health_service_says() -> Outcome {
    let addr = ReservedPort::new()?.release();
    let server =
        tonic::transport::Server::builder().add_service(HealthServer::new(Picker)).serve(addr);
    // Stands in for the process whose readiness is asked for.
    let child = Launch::new("/bin/sh").args(["-c", "sleep 100"]).spawn()?;
    let ask = async {
        child.wait_grpc(addr, "picker", START_LIMIT).await?;
        let unknown = grpc_status(addr, "other").await.err().map(|status| status.code());
        assert_eq!(unknown, Some(Code::NotFound));
        child.kill();
        let waited = child.wait_grpc(addr, "other", START_LIMIT).await;
        assert!(matches!(waited, Err(ProcessError::Ended { .. })), "{waited:?}");
        Outcome::Ok(())
    };
    tokio::select! {
        served = server => Err(format!("the server ended: {served:?}").into()),
        outcome = ask => outcome,
    }
}
