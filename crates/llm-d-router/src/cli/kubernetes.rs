//! Flags of the Go implementation that mean something only in Kubernetes. All parse; those that this
//! version cannot follow say so instead of being ignored.

use clap::Args;
use router_engine::PoolChoice;

use super::UsageError;

/// See the module.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Kubernetes")]
pub struct KubernetesFlags {
    /// Name of the InferencePool; with file discovery, the pool's name in metrics, and which pool of the
    /// manifests in --resources is served.
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    pub pool_name: String,
    /// Namespace of the pool, and of manifests that say none; $NAMESPACE where it is not given.
    #[arg(long, value_name = "NAMESPACE", default_value = "", hide_default_value = true)]
    pub pool_namespace: String,
    /// API group of the pool.
    #[arg(long, value_name = "GROUP", default_value = "inference.networking.k8s.io")]
    pub pool_group: String,
    /// Label selector of the model servers, instead of a pool.
    #[arg(long, value_name = "SELECTOR", default_value = "", hide_default_value = true)]
    pub endpoint_selector: String,
    /// Ports of the model servers that the selector finds.
    #[arg(long, value_name = "PORTS", value_delimiter = ',')]
    pub endpoint_target_ports: Vec<u16>,
    /// One of several replicas leads, the others stand by.
    #[arg(long, num_args = 0..=1, value_name = "true|false", value_parser = super::go_bool, default_missing_value = "true", default_value = "false", require_equals = true, action = clap::ArgAction::Set)]
    pub ha_enable_leader_election: bool,
    /// Ask Kubernetes who may read the metrics.
    #[arg(long, num_args = 0..=1, value_name = "true|false", value_parser = super::go_bool, default_missing_value = "true", require_equals = true)]
    pub metrics_endpoint_auth: Option<bool>,
}

impl KubernetesFlags {
    /// Refuses what needs Kubernetes.
    pub fn check(&self) -> Result<(), UsageError> {
        let refuse = |message: &str| Err(UsageError(message.to_owned()));
        if !self.pool_name.is_empty() && !self.endpoint_selector.is_empty() {
            return refuse("give --pool-name or --endpoint-selector, not both");
        }
        if self.ha_enable_leader_election {
            return refuse(
                "--ha-enable-leader-election needs Kubernetes, which is not available yet; leave it out",
            );
        }
        if self.metrics_endpoint_auth == Some(true) {
            return refuse(
                "--metrics-endpoint-auth needs Kubernetes; set --metrics-endpoint-auth=false, and \
                 --metrics-client-ca-file to let in only clients with a certificate",
            );
        }
        Ok(())
    }

    /// The pool's name in metrics where neither the flag nor a manifest says one: as in Go.
    pub fn pool_name(&self) -> String {
        if self.pool_name.is_empty() { "epp".to_owned() } else { self.pool_name.clone() }
    }

    /// Which pool is served, as far as the flags and the environment say.
    pub fn pool(&self) -> PoolChoice {
        PoolChoice {
            group: self.pool_group.clone(),
            ..choice(&self.pool_name, &self.pool_namespace)
        }
    }
}

/// Which of several pools in the manifests is meant.
#[derive(Debug, Default, Args)]
pub struct PoolFlags {
    /// Name of the pool that is served, where --resources has manifests of several; also its name in metrics.
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    pub pool_name: String,
    /// Namespace of the pool, and of manifests that say none; $NAMESPACE where it is not given.
    #[arg(long, value_name = "NAMESPACE", default_value = "", hide_default_value = true)]
    pub pool_namespace: String,
}

impl PoolFlags {
    /// Which pool is served, as far as the flags and the environment say.
    pub fn pool(&self) -> PoolChoice {
        choice(&self.pool_name, &self.pool_namespace)
    }
}

fn choice(name: &str, namespace: &str) -> PoolChoice {
    let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let from_environment = || std::env::var("NAMESPACE").ok().filter(|text| !text.is_empty());
    PoolChoice {
        name: given(name),
        namespace: given(namespace).or_else(from_environment),
        ..PoolChoice::default()
    }
}
