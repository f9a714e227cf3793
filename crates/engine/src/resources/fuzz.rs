//! Manifests from anywhere: must be read or refused in bounded time and memory, never with a panic.

use super::{PoolChoice, Resources};

/// Reads `data` as a manifest file; its first byte chooses how much is known of the pool.
///
/// # Panics
/// If a file that is read in one piece is read differently beside an empty one, or a refusal does not say why.
pub fn fuzz_manifests(data: &[u8]) {
    let Some((setting, text)) = data.split_first() else { return };
    let choice = PoolChoice {
        name: (setting & 1 != 0).then(|| "pool".to_owned()),
        namespace: (setting & 2 != 0).then(|| "default".to_owned()),
        ..PoolChoice::default()
    };
    let read = Resources::parse([("fuzz.yaml", text)], &choice);
    let beside = Resources::parse([("empty.yaml", b"".as_slice()), ("fuzz.yaml", text)], &choice);
    assert_eq!(read, beside, "an empty file changes something");
    match read {
        Ok((resources, warnings)) => {
            for warning in warnings {
                assert!(warning.to_string().starts_with("fuzz.yaml:"), "{warning}");
            }
            for model in resources.rewrites.models() {
                assert!(!model.is_empty(), "a model without a name");
            }
        }
        Err(error) => assert!(error.to_string().contains("error: "), "{error:?}"),
    }
}
