//! The documents that programs under test are started with.

use std::fmt::Write;
use std::path::Path;

use serde_json::{Value, json};

/// The endpoints file of file discovery: `ip:port` each.
pub fn endpoints_file(addresses: &[String]) -> String {
    let mut text = String::from("endpoints:\n");
    for (endpoint_idx, address) in addresses.iter().enumerate() {
        let (ip, port) = address.rsplit_once(':').unwrap_or((address, ""));
        // Writing to a string cannot fail.
        write!(
            text,
            "  - name: server-{endpoint_idx}\n    address: \"{ip}\"\n    port: \"{port}\"\n"
        )
        .ok();
    }
    text
}

/// The Go default preset over file discovery.
pub fn picker_config(endpoints_file: &Path) -> String {
    config(endpoints_file, "", "")
}

/// The same with counts of what is in flight, and with an endpoints file that is watched.
pub fn soak_config(endpoints_file: &Path) -> String {
    config(
        endpoints_file,
        "      watchFile: true\n  - type: active-request-scorer\n",
        "      - pluginRef: active-request-scorer\n        weight: 1\n",
    )
}

/// `plugins` goes on after the path of the endpoints file, `references` after the profile's.
fn config(endpoints_file: &Path, plugins: &str, references: &str) -> String {
    format!(
        "\
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
  - type: queue-scorer
  - type: kv-cache-utilization-scorer
  - type: prefix-cache-scorer
  - type: file-discovery
    parameters:
      path: {}
{plugins}schedulingProfiles:
  - name: default
    plugins:
      - pluginRef: queue-scorer
        weight: 2
      - pluginRef: kv-cache-utilization-scorer
        weight: 2
      - pluginRef: prefix-cache-scorer
        weight: 3
{references}dataLayer:
  discovery:
    pluginRef: file-discovery
",
        Value::from(endpoints_file.to_string_lossy())
    )
}

/// An Envoy that listens on a port of loopback and sends each request to the next of the endpoints.
pub fn envoy_bootstrap(port: u16, endpoints: &[String]) -> Value {
    let socket =
        |ip: &str, port: u16| json!({"socket_address": {"address": ip, "port_value": port}});
    let lb_endpoints: Vec<Value> = endpoints
        .iter()
        .filter_map(|endpoint| {
            let (ip, port) = endpoint.rsplit_once(':')?;
            Some(json!({"endpoint": {"address": socket(ip, port.parse().ok()?)}}))
        })
        .collect();
    let router = json!({
        "name": "envoy.filters.http.router",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
        },
    });
    let connection_manager = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network\
                  .http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "bench",
        "route_config": {
            "virtual_hosts": [{
                "name": "all",
                "domains": ["*"],
                "routes": [{
                    "match": {"prefix": "/"},
                    "route": {"cluster": "endpoints", "timeout": "0s"},
                }],
            }],
        },
        "http_filters": [router],
    });
    let filter = json!({
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": connection_manager,
    });
    json!({
        "static_resources": {
            "listeners": [{
                "name": "bench",
                "address": socket("127.0.0.1", port),
                "filter_chains": [{"filters": [filter]}],
            }],
            "clusters": [{
                "name": "endpoints",
                "type": "STATIC",
                "connect_timeout": "5s",
                "lb_policy": "ROUND_ROBIN",
                "circuit_breakers": {"thresholds": [{
                    "max_connections": 40_000,
                    "max_pending_requests": 40_000,
                    "max_requests": 40_000,
                }]},
                "load_assignment": {
                    "cluster_name": "endpoints",
                    "endpoints": [{"lb_endpoints": lb_endpoints}],
                },
            }],
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_has_its_port_as_text() {
        let file = endpoints_file(&["10.0.0.1:8000".into(), "10.0.0.2:8001".into()]);
        let expected = "endpoints:\n  - name: server-0\n    address: \"10.0.0.1\"\n    port: \"8000\"\n  \
                        - name: server-1\n    address: \"10.0.0.2\"\n    port: \"8001\"\n";
        assert_eq!(file, expected);
    }

    #[test]
    fn a_path_is_quoted() {
        let config = picker_config(Path::new("/tmp/a b/endpoints.yaml"));
        assert!(config.contains("path: \"/tmp/a b/endpoints.yaml\"\n"), "{config}");
    }

    #[test]
    fn the_soak_adds_to_the_preset() {
        let preset = picker_config(Path::new("e.yaml"));
        let soak = soak_config(Path::new("e.yaml"));
        let added: Vec<&str> = soak.lines().filter(|line| !preset.contains(line)).collect();
        assert_eq!(
            added,
            [
                "      watchFile: true",
                "  - type: active-request-scorer",
                "      - pluginRef: active-request-scorer",
                "        weight: 1",
            ]
        );
    }

    #[test]
    fn every_endpoint_is_envoys() {
        let document = envoy_bootstrap(8080, &["10.0.0.1:8000".into(), "10.0.0.2:8001".into()]);
        let path = "/static_resources/clusters/0/load_assignment/endpoints/0/lb_endpoints/1\
                    /endpoint/address/socket_address/port_value";
        assert_eq!(document.pointer(path), Some(&json!(8001)));
    }
}
