//! The embedded model, as a scorer of token ids.

use std::path::Path;
use std::sync::{LazyLock, Mutex};

use plumbline_core::{PackedBatch, ReferenceModel, ScoringSequence};
use plumbline_model::{CandleReference, LoadOptions, ModelSource};

static MODEL: LazyLock<Mutex<CandleReference>> = LazyLock::new(|| {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/tiny/policy-2");
    Mutex::new(ModelSource::Directory(folder).load(&LoadOptions::default()).unwrap())
});

/// Logprobs of every token but the first.
pub(super) fn logprobs(token_ids: &[u32]) -> Vec<f64> {
    let sequence = ScoringSequence::all_tokens(token_ids.to_vec());
    let batch = PackedBatch::pack([&sequence]);
    let scores = MODEL.lock().unwrap().score(&batch).unwrap();
    scores.sequences[0].logprobs.clone()
}

/// Ids that depend on nothing but the arguments; none of them is special.
pub(super) fn sample(prompt: &[u32], seed: u64, salt: u64, count: usize) -> Vec<u32> {
    let mut state = prompt.iter().fold(seed ^ salt.rotate_left(32), |state, id| mix(state ^ u64::from(*id)));
    let mut next = || {
        state = mix(state);
        32 + (state >> 33) as u32 % 1900
    };
    (0..count).map(|_| next()).collect()
}

/// SplitMix64.
fn mix(state: u64) -> u64 {
    let mut z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
