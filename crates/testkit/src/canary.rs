//! A canary: of the requests for one model, another serves one in ten.

use crate::router::sum;

/// The model that clients ask for.
pub const ASKED: &str = "m";
/// Who serves the other requests, and who serves one in ten. In either name is what a server may write as an
/// escape.
pub const STABLE: &str = "m-stable-1";
pub const CANARY: &str = "m-canary-2";

/// The rewrite.
pub const MANIFEST: &str = "
apiVersion: llm-d.ai/v1alpha2
kind: InferenceModelRewrite
metadata: {name: canary}
spec:
  poolRef: {name: pool}
  rules:
  - matches: [{model: {value: m}}]
    targets:
    - {modelRewrite: m-stable-1, weight: 90}
    - {modelRewrite: m-canary-2, weight: 10}
";

/// Whose request this is: the client's body with another name in it.
///
/// # Panics
///
/// When it is nobody's.
pub fn served_by(client_body: &str, sent: &[u8]) -> &'static str {
    let asked = format!("\"{ASKED}\"");
    let is_sent =
        |name: &&str| sent == client_body.replace(&asked, &format!("\"{name}\"")).as_bytes();
    let found = [STABLE, CANARY].into_iter().find(is_sent);
    found.unwrap_or_else(|| panic!("{:?} was sent", String::from_utf8_lossy(sent)))
}

/// Decisions for one of them, by a metrics page.
pub fn decided(page: &str, target: &str) -> f64 {
    let labels =
        [("model_name", ASKED), ("model_rewrite_name", "canary"), ("target_model", target)];
    sum(page, "llm_d_epp_model_rewrite_decisions_total", &labels)
}

/// Whether so many of these requests are within four standard deviations of one in ten. A right router is beyond
/// them for one seed in 16,000; a test's seed is fixed.
pub fn is_its_share(n_canary: f64, n_requests: usize) -> bool {
    let n_requests = n_requests as f64;
    (n_canary - n_requests * 0.1).abs() <= 4.0 * (n_requests * 0.1 * 0.9).sqrt()
}
