//! Plugin types of the Go implementation that this version does not have yet, with the feature that brings
//! them. Building one means deleting its line here.

use crate::document::{Availability, Role, Stability, TypeInfo};

const DISAGGREGATION: &str = "disaggregated serving";
const PRECISE: &str = "KV events and the precise prefix index";
const LATENCY: &str = "latency prediction";
const ATTRIBUTES: &str = "endpoint attributes and GPU metrics";
const SESSIONS: &str = "session affinity";
const MULTICLUSTER: &str = "multi-cluster routing";
const MULTIMODAL: &str = "multimodal encoder caches";
const PARSERS: &str = "gRPC and SGLang parsers";
const KUBERNETES: &str = "Kubernetes";
const REPORTING: &str = "request attribute reporting";
const BURST: &str = "burst scheduling";
const CONTEXT_LENGTH: &str = "routing by context length";

/// Type, feature, roles.
const LATER: &[(&str, &str, &[Role])] = &[
    ("disaggregatedset-rollout-screener", KUBERNETES, &[Role::Screener, Role::ResponseHeader]),
    ("session-affinity-filter", SESSIONS, &[Role::Filter, Role::PreRequest, Role::ResponseHeader]),
    ("session-affinity-scorer", SESSIONS, &[Role::Scorer, Role::PreRequest, Role::ResponseHeader]),
    ("header-label-affinity-scorer", SESSIONS, &[Role::Scorer]),
    ("session-id-producer", SESSIONS, &[Role::DataProducer]),
    ("agent-identity", SESSIONS, &[Role::RequestHeader]),
    ("endpoint-attribute-filter", ATTRIBUTES, &[Role::Filter]),
    ("endpoint-attribute-scorer", ATTRIBUTES, &[Role::Scorer]),
    ("utilization-filter", ATTRIBUTES, &[Role::Filter]),
    ("dcgm-data-source", ATTRIBUTES, &[Role::DataSource]),
    ("dcgm-extractor", ATTRIBUTES, &[Role::Extractor]),
    ("models-data-source", ATTRIBUTES, &[Role::DataSource]),
    ("models-data-extractor", ATTRIBUTES, &[Role::Extractor]),
    ("topology-affinity-filter", DISAGGREGATION, &[Role::Filter]),
    ("topology-affinity-scorer", DISAGGREGATION, &[Role::Scorer]),
    ("topology-extractor", DISAGGREGATION, &[Role::Extractor]),
    ("multicluster-session-affinity-filter", MULTICLUSTER, &[Role::Filter]),
    ("multicluster-queue-scorer", MULTICLUSTER, &[Role::Scorer]),
    ("multicluster-kv-cache-utilization-scorer", MULTICLUSTER, &[Role::Scorer]),
    ("multicluster-prefix-cache-scorer", MULTICLUSTER, &[Role::Scorer]),
    ("multicluster-approx-prefix-cache-producer", MULTICLUSTER, &[Role::DataProducer]),
    ("multicluster-metrics-data-source", MULTICLUSTER, &[Role::DataSource]),
    ("multicluster-metrics-extractor", MULTICLUSTER, &[Role::Extractor]),
    ("multicluster-file-discovery", MULTICLUSTER, &[Role::Discovery]),
    ("slo-headroom-tier-filter", LATENCY, &[Role::Filter]),
    ("latency-scorer", LATENCY, &[Role::Scorer]),
    ("latency-slo-admitter", LATENCY, &[Role::Admitter]),
    ("predicted-latency-producer", LATENCY, &[Role::DataProducer]),
    ("precise-prefix-cache-scorer", PRECISE, &[Role::Scorer]),
    (
        "precise-prefix-cache-producer",
        PRECISE,
        &[Role::DataProducer, Role::PreRequest, Role::Extractor],
    ),
    ("endpoint-notification-source", PRECISE, &[Role::DataSource]),
    ("p2p-source-producer", PRECISE, &[Role::DataProducer, Role::PreRequest]),
    ("tokenizer", PRECISE, &[Role::DataProducer]),
    ("burst-prefix-cache-producer", BURST, &[Role::DataProducer]),
    ("context-length-aware", CONTEXT_LENGTH, &[Role::Scorer, Role::Filter]),
    (
        "mm-embeddings-cache-producer",
        MULTIMODAL,
        &[Role::DataProducer, Role::PreRequest, Role::Extractor],
    ),
    ("mm-embeddings-cache-scorer", MULTIMODAL, &[Role::Scorer]),
    ("disagg-profile-handler", DISAGGREGATION, &[Role::ProfileHandler, Role::PreRequest]),
    ("pd-profile-handler", DISAGGREGATION, &[Role::ProfileHandler]),
    ("data-parallel-profile-handler", DISAGGREGATION, &[Role::ProfileHandler]),
    ("always-disagg-pd-decider", DISAGGREGATION, &[Role::Decider]),
    ("always-disagg-multimodal-decider", DISAGGREGATION, &[Role::Decider]),
    ("prefix-based-pd-decider", DISAGGREGATION, &[Role::Decider]),
    ("disagg-headers-handler", DISAGGREGATION, &[Role::PreRequest]),
    ("prefill-header-handler", DISAGGREGATION, &[Role::PreRequest]),
    ("request-attribute-reporter", REPORTING, &[Role::ResponseBody]),
    ("destination-endpoint-served-verifier", KUBERNETES, &[Role::ResponseHeader]),
    ("k8s-notification-source", KUBERNETES, &[Role::DataSource]),
    ("sglanghttp-parser", PARSERS, &[Role::Parser]),
    ("vllmgrpc-parser", PARSERS, &[Role::Parser]),
    ("vertexai-parser", PARSERS, &[Role::Parser]),
];

/// What is known of a type that is not there yet.
pub(super) fn lookup(plugin_type: &str) -> Option<TypeInfo<'static>> {
    let (_, feature, roles) = LATER.iter().find(|(name, ..)| *name == plugin_type)?;
    Some(TypeInfo {
        availability: Availability::Later { feature },
        stability: Stability::Beta,
        deprecation: None,
        roles,
        parameters: None,
        references: &[],
        alone: None,
        description: "",
    })
}
