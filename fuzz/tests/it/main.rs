//! Replays the committed corpus.

use router_fuzz::{Mutator, TARGETS};

/// Mutations of the corpus tried in every test run: enough to catch what is easy to break.
const N_MUTATIONS: usize = 300;

#[test]
fn every_target_has_a_corpus_and_every_corpus_a_target() -> std::io::Result<()> {
    let mut names: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
    names.sort_unstable();
    assert_eq!(router_fuzz::folders()?, names);
    for name in names {
        assert!(!router_fuzz::inputs(name)?.is_empty(), "corpus/{name} is empty");
    }
    Ok(())
}

#[test]
fn the_corpus_is_served_or_refused() -> std::io::Result<()> {
    for (name, target) in TARGETS {
        for input in router_fuzz::inputs(name)? {
            println!("{name}: {}", input.path.display());
            target(&input.bytes);
            // Cut off anywhere, as a connection may be.
            let n_bytes = input.bytes.len();
            for part in 0..8 {
                target(&input.bytes[..n_bytes * part / 8]);
            }
        }
    }
    Ok(())
}

#[test]
fn mutations_are_served_or_refused() -> std::io::Result<()> {
    for (name, target) in TARGETS {
        let seeds = router_fuzz::inputs(name)?.into_iter().map(|input| input.bytes).collect();
        let mut mutator = Mutator::new(20, seeds);
        for number in 0..N_MUTATIONS {
            let input = mutator.next_input();
            println!("{name}: mutation {number}: {:?}", String::from_utf8_lossy(&input));
            target(&input);
        }
    }
    Ok(())
}
