//! The hot kernels through whole forwards of one layer, each shaped so that one part takes nearly all of the time.
//!
//! `cargo bench --workspace --bench score`; every rate is in tokens.

#![allow(clippy::unwrap_used, missing_docs, reason = "a benchmark is run by hand")]

use std::hint::black_box;
use std::path::Path;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use plumbline_core::{Kernels, PackedBatch, ReferenceModel, ScoringSequence};
use plumbline_model::{LoadOptions, ModelSource};

/// Sizes that differ between the cases.
struct Shape {
    name: &'static str,
    vocabulary: usize,
    intermediate: usize,
    tokens: usize,
    scored: usize,
}

const SHAPES: [Shape; 4] = [
    Shape { name: "mlp", vocabulary: 128, intermediate: 4864, tokens: 512, scored: 1 },
    Shape { name: "attention", vocabulary: 128, intermediate: 64, tokens: 4096, scored: 1 },
    Shape { name: "head", vocabulary: 151_936, intermediate: 64, tokens: 128, scored: 127 },
    Shape { name: "one_short_sequence", vocabulary: 2048, intermediate: 4864, tokens: 16, scored: 15 },
];

fn model(shape: &Shape, kernels: Kernels) -> impl ReferenceModel {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("bench-{}", shape.name));
    std::fs::create_dir_all(&folder).unwrap();
    let config = serde_json::json!({
        "model_type": "qwen2", "hidden_act": "silu", "hidden_size": 896, "intermediate_size": shape.intermediate,
        "num_attention_heads": 14, "num_key_value_heads": 2, "num_hidden_layers": 1, "max_position_embeddings": 32_768,
        "rms_norm_eps": 1e-6, "rope_theta": 1e6, "tie_word_embeddings": true, "vocab_size": shape.vocabulary,
    });
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    ModelSource::RandomInit(folder).load(&LoadOptions { kernels, ..LoadOptions::default() }).unwrap()
}

fn forwards(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("forward");
    group.sample_size(10);
    for shape in &SHAPES {
        let token_ids: Vec<u32> = (0..shape.tokens as u32).map(|at| at * 31 % shape.vocabulary as u32).collect();
        let scored = shape.tokens - shape.scored..shape.tokens;
        let batch = PackedBatch::pack(&[ScoringSequence { scored, ..ScoringSequence::all_tokens(token_ids) }]);
        group.throughput(Throughput::Elements(shape.tokens as u64));
        for kernels in [Kernels::Auto, Kernels::Generic] {
            let mut model = model(shape, kernels);
            group.bench_function(BenchmarkId::new(shape.name, kernels), |bencher| {
                bencher.iter(|| model.score(black_box(&batch)).unwrap());
            });
        }
    }
    group.finish();
}

criterion_group!(benches, forwards);
criterion_main!(benches);
