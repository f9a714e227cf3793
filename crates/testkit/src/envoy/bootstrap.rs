//! Envoy's bootstrap document.

use serde_json::{Value, json};

use super::{EnvoyConfig, ExtProc, Responses, Route, SubsetHint};

const EXT_PROC_CLUSTER: &str = "endpoint_picker";
const PICKED_CLUSTER: &str = "picked";
const DESTINATION_HEADER: &str = "x-gateway-destination-endpoint";
/// Where the endpoint picker and the load balancer leave notes for each other.
const LB_NAMESPACE: &str = "envoy.lb";
/// What the standalone chart gives a listener, in bytes: small, so that back-pressure is real.
const LISTENER_BUFFER: u32 = 32 * 1024;
/// Far above what a test opens at once; Envoy's own limit of 1,024 would reject the rest.
const MAX_CONCURRENT: u32 = 40_000;

const TYPES: &str = "type.googleapis.com/envoy.extensions";

/// The whole document.
pub(super) fn document(config: &EnvoyConfig) -> Value {
    let mut clusters = vec![picked_cluster()];
    clusters.extend(config.ext_proc.as_ref().map(ext_proc_cluster));
    json!({
        "admin": { "address": loopback(0) },
        "static_resources": { "listeners": [listener(config)], "clusters": clusters },
        // A downstream limit keeps Envoy from warning that it has none.
        "overload_manager": {
            "resource_monitors": [{
                "name": "envoy.resource_monitors.global_downstream_max_connections",
                "typed_config": {
                    "@type": format!("{TYPES}.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig"),
                    "max_active_downstream_connections": MAX_CONCURRENT,
                },
            }],
        },
    })
}

fn loopback(port: u16) -> Value {
    json!({ "socket_address": { "address": "127.0.0.1", "port_value": port } })
}

fn listener(config: &EnvoyConfig) -> Value {
    let action = match &config.route {
        Route::Picked => json!({
            // Generation takes as long as it takes.
            "route": { "cluster": PICKED_CLUSTER, "timeout": "0s", "idle_timeout": "86400s" },
        }),
        Route::Direct { status, body } => json!({
            "direct_response": { "status": status, "body": { "inline_string": body } },
        }),
    };
    let mut route = json!({ "match": { "prefix": "/" } });
    merge(&mut route, action);

    let mut filters = Vec::new();
    filters.extend(config.subset_hint.as_ref().map(subset_hint_filter));
    filters.extend(config.ext_proc.as_ref().map(ext_proc_filter));
    filters.push(json!({
        "name": "envoy.filters.http.router",
        "typed_config": {
            "@type": format!("{TYPES}.filters.http.router.v3.Router"),
            "suppress_envoy_headers": config.suppress_envoy_headers,
        },
    }));

    let mut manager = json!({
        "@type": format!("{TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "test",
        "codec_type": "AUTO",
        "stream_idle_timeout": "0s",
        "request_timeout": "0s",
        "http2_protocol_options": { "max_concurrent_streams": 1000 },
        "http_filters": filters,
        "route_config": {
            "name": "all",
            "virtual_hosts": [{ "name": "all", "domains": ["*"], "routes": [route] }],
        },
    });
    if config.access_log {
        merge(&mut manager, json!({ "access_log": [access_log()] }));
    }
    json!({
        "name": "clients",
        "address": loopback(0),
        "per_connection_buffer_limit_bytes": LISTENER_BUFFER,
        "filter_chains": [{
            "filters": [{
                "name": "envoy.filters.network.http_connection_manager",
                "typed_config": manager,
            }],
        }],
    })
}

fn access_log() -> Value {
    json!({
        "name": "envoy.access_loggers.stdout",
        "typed_config": {
            "@type": format!("{TYPES}.access_loggers.stream.v3.StdoutAccessLog"),
            "log_format": { "json_format": {
                "method": "%REQ(:METHOD)%",
                "path": "%REQ(:PATH)%",
                "request_id": "%REQ(X-REQUEST-ID)%",
                "status": "%RESPONSE_CODE%",
                "details": "%RESPONSE_CODE_DETAILS%",
                "flags": "%RESPONSE_FLAGS%",
                "destination": format!("%REQ({DESTINATION_HEADER})%"),
                "upstream": "%UPSTREAM_HOST%",
                "bytes_received": "%BYTES_RECEIVED%",
                "bytes_sent": "%BYTES_SENT%",
                "duration_ms": "%DURATION%",
            } },
        },
    })
}

fn subset_hint_filter(hint: &SubsetHint) -> Value {
    let endpoints = match hint {
        SubsetHint::List(endpoints) => json!(endpoints),
        SubsetHint::Text(endpoints) => json!(endpoints),
    };
    json!({
        "name": "envoy.filters.http.set_metadata",
        "typed_config": {
            "@type": format!("{TYPES}.filters.http.set_metadata.v3.Config"),
            "metadata": [{
                "metadata_namespace": format!("{LB_NAMESPACE}.subset_hint"),
                "value": { "x-gateway-destination-endpoint-subset": endpoints },
                "allow_overwrite": true,
            }],
        },
    })
}

fn ext_proc_filter(picker: &ExtProc) -> Value {
    let (headers, body, trailers) = match picker.responses {
        Responses::Bodies => ("SEND", "FULL_DUPLEX_STREAMED", "SEND"),
        Responses::Headers => ("SEND", "NONE", "SKIP"),
        Responses::Hidden => ("SKIP", "NONE", "SKIP"),
    };
    let namespaces = json!({
        "untyped": [LB_NAMESPACE, format!("{LB_NAMESPACE}.subset_hint")],
    });
    json!({
        "name": "envoy.filters.http.ext_proc",
        "typed_config": {
            "@type": format!("{TYPES}.filters.http.ext_proc.v3.ExternalProcessor"),
            "grpc_service": { "envoy_grpc": { "cluster_name": EXT_PROC_CLUSTER } },
            "failure_mode_allow": picker.failure_mode_allow,
            "message_timeout": format!("{}s", picker.message_timeout.as_secs_f64()),
            "processing_mode": {
                "request_header_mode": "SEND",
                "request_body_mode": "FULL_DUPLEX_STREAMED",
                "request_trailer_mode": "SEND",
                "response_header_mode": headers,
                "response_body_mode": body,
                "response_trailer_mode": trailers,
            },
            "metadata_options": {
                "forwarding_namespaces": namespaces,
                "receiving_namespaces": { "untyped": [LB_NAMESPACE] },
            },
        },
    })
}

fn picked_cluster() -> Value {
    json!({
        "name": PICKED_CLUSTER,
        "type": "ORIGINAL_DST",
        "connect_timeout": "5s",
        "lb_policy": "CLUSTER_PROVIDED",
        "original_dst_lb_config": {
            "use_http_header": true,
            "http_header_name": DESTINATION_HEADER,
        },
        "circuit_breakers": circuit_breakers(),
    })
}

fn ext_proc_cluster(picker: &ExtProc) -> Value {
    let mut cluster = json!({
        "name": EXT_PROC_CLUSTER,
        "type": "STATIC",
        "connect_timeout": "5s",
        "circuit_breakers": circuit_breakers(),
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": format!("{TYPES}.upstreams.http.v3.HttpProtocolOptions"),
                // What the standalone chart gives the endpoint picker's connection.
                "explicit_http_config": { "http2_protocol_options": {
                    "max_concurrent_streams": 100,
                    "initial_stream_window_size": 64 * 1024,
                    "initial_connection_window_size": 1024 * 1024,
                } },
            },
        },
        "load_assignment": {
            "cluster_name": EXT_PROC_CLUSTER,
            "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": {
                "socket_address": {
                    "address": picker.addr.ip().to_string(),
                    "port_value": picker.addr.port(),
                },
            } } }] }],
        },
    });
    if picker.tls {
        merge(
            &mut cluster,
            json!({ "transport_socket": {
                "name": "envoy.transport_sockets.tls",
                "typed_config": {
                    "@type": format!("{TYPES}.transport_sockets.tls.v3.UpstreamTlsContext"),
                    "common_tls_context": { "alpn_protocols": ["h2"] },
                },
            } }),
        );
    }
    cluster
}

fn circuit_breakers() -> Value {
    json!({ "thresholds": [{
        "max_connections": MAX_CONCURRENT,
        "max_pending_requests": MAX_CONCURRENT,
        "max_requests": MAX_CONCURRENT,
    }] })
}

/// Adds the members of one object to another.
fn merge(into: &mut Value, from: Value) {
    if let (Value::Object(into), Value::Object(from)) = (into, from) {
        into.extend(from);
    }
}
