//! A Qwen3 decoder with a key-value cache, as an inference engine runs it.

use candle_core::{Device, Tensor};
use serde::Deserialize;

use super::checkpoint::Checkpoint;
use super::numerics::{KvFormat, Rounding};

/// Where the weights of one policy stand for computing.
#[derive(Debug)]
pub(crate) struct Network {
    shape: Shape,
    /// `[vocabulary, hidden]`, also the head.
    embedding: Vec<f32>,
    head: Tensor,
    layers: Vec<Layer>,
    norm: Vec<f32>,
}

/// What `config.json` says about sizes.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
struct Shape {
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: usize,
    head_dim: usize,
    rms_norm_eps: f32,
}

/// Projections as `[in, out]`.
#[derive(Debug)]
struct Layer {
    input_norm: Vec<f32>,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_norm: Vec<f32>,
    key_norm: Vec<f32>,
    output: Tensor,
    mlp_norm: Vec<f32>,
    gate: Tensor,
    up: Tensor,
    down: Tensor,
}

/// How positions enter attention, and what of the past it sees.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Positions {
    pub(crate) rope_theta: f64,
    /// Positions are divided by it.
    pub(crate) rope_factor: f64,
    pub(crate) window: Option<usize>,
}

/// Keys (after RoPE) and values of one sequence: per layer, position after position.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cache {
    layers: Vec<(Vec<f32>, Vec<f32>)>,
    len: usize,
}

impl Cache {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// What was kept exactly so far, in low precision.
    pub(crate) fn lower(&mut self, format: KvFormat) {
        for (keys, values) in &mut self.layers {
            keys.iter_mut().chain(values).for_each(|value| *value = format.round(*value));
        }
    }
}

/// One token to run through the network; rows of a sequence stand in order.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    /// Index of the sequence's cache.
    pub(crate) cache: usize,
    pub(crate) token: u32,
    /// Format of its stored key and value, if lower than that of all else.
    pub(crate) stored: Option<KvFormat>,
}

/// Where a row stands in its sequence.
struct Place {
    position: usize,
    angles: Vec<(f32, f32)>,
}

impl Network {
    pub(crate) fn new(checkpoint: &Checkpoint, config: &serde_json::Value) -> Self {
        let shape = Shape::deserialize(config).unwrap();
        let vector = |name: &str| checkpoint.0[name].values.clone();
        let matrix = |name: &str| {
            let stored = &checkpoint.0[name];
            let tensor = Tensor::from_slice(&stored.values, (stored.rows, stored.columns), &Device::Cpu).unwrap();
            tensor.t().unwrap().contiguous().unwrap()
        };
        let layers = (0..shape.num_hidden_layers).map(|layer| {
            let at = |part: &str| format!("model.layers.{layer}.{part}.weight");
            Layer {
                input_norm: vector(&at("input_layernorm")),
                query: matrix(&at("self_attn.q_proj")),
                key: matrix(&at("self_attn.k_proj")),
                value: matrix(&at("self_attn.v_proj")),
                query_norm: vector(&at("self_attn.q_norm")),
                key_norm: vector(&at("self_attn.k_norm")),
                output: matrix(&at("self_attn.o_proj")),
                mlp_norm: vector(&at("post_attention_layernorm")),
                gate: matrix(&at("mlp.gate_proj")),
                up: matrix(&at("mlp.up_proj")),
                down: matrix(&at("mlp.down_proj")),
            }
        });
        Self {
            layers: layers.collect(),
            embedding: vector("model.embed_tokens.weight"),
            head: matrix("model.embed_tokens.weight"),
            norm: vector("model.norm.weight"),
            shape,
        }
    }

    /// Runs rows through the layers, appends them to their caches, and gives each row's final hidden state.
    pub(crate) fn forward(
        &self,
        rows: &[Row],
        caches: &mut [Cache],
        positions: &Positions,
        rounding: &mut Rounding,
    ) -> Vec<f32> {
        let hidden = self.shape.hidden_size;
        let embedded = rows.iter().flat_map(|row| &self.embedding[row.token as usize * hidden..][..hidden]);
        let mut stream: Vec<f32> = embedded.copied().collect();
        let places = self.places(rows, caches, positions);
        for (index, layer) in self.layers.iter().enumerate() {
            let normed = self.norm(&stream, &layer.input_norm, rounding);
            let attended = self.attention(index, &normed, rows, &places, caches, positions.window, rounding);
            add(&mut stream, &project(&attended, &layer.output, rounding), rounding);
            let normed = self.norm(&stream, &layer.mlp_norm, rounding);
            let mut gate = project(&normed, &layer.gate, rounding);
            let up = project(&normed, &layer.up, rounding);
            gate.iter_mut().for_each(|value| *value /= 1.0 + (-*value).exp());
            rounding.apply(&mut gate);
            gate.iter_mut().zip(up).for_each(|(gate, up)| *gate *= up);
            rounding.apply(&mut gate);
            add(&mut stream, &project(&gate, &layer.down, rounding), rounding);
        }
        for row in rows {
            caches[row.cache].len += 1;
        }
        self.norm(&stream, &self.norm, rounding)
    }

    /// Logits of hidden states, in f32, one row of the vocabulary each.
    pub(crate) fn logits(&self, hidden: &[f32]) -> Vec<f32> {
        product(hidden, &self.head)
    }

    fn places(&self, rows: &[Row], caches: &[Cache], positions: &Positions) -> Vec<Place> {
        let mut next: Vec<usize> = caches.iter().map(Cache::len).collect();
        let place = |row: &Row| {
            let position = next[row.cache];
            next[row.cache] += 1;
            Place { position, angles: angles(position, self.shape.head_dim, positions) }
        };
        rows.iter().map(place).collect()
    }

    fn norm(&self, rows: &[f32], weight: &[f32], rounding: &mut Rounding) -> Vec<f32> {
        let mut normed = rows.to_vec();
        for row in normed.chunks_mut(weight.len()) {
            let squares: f32 = row.iter().map(|value| value * value).sum();
            let scale = 1.0 / (squares / weight.len() as f32 + self.shape.rms_norm_eps).sqrt();
            row.iter_mut().zip(weight).for_each(|(value, weight)| *value *= scale * weight);
        }
        rounding.apply(&mut normed);
        normed
    }

    #[expect(clippy::too_many_arguments, reason = "all that an attention layer depends on")]
    fn attention(
        &self,
        index: usize,
        input: &[f32],
        rows: &[Row],
        places: &[Place],
        caches: &mut [Cache],
        window: Option<usize>,
        rounding: &mut Rounding,
    ) -> Vec<f32> {
        let Shape { num_attention_heads: heads, num_key_value_heads: kv_heads, head_dim, .. } = self.shape;
        let layer = &self.layers[index];
        let mut queries = self.norm(&project(input, &layer.query, rounding), &layer.query_norm, rounding);
        let mut keys = self.norm(&project(input, &layer.key, rounding), &layer.key_norm, rounding);
        let values = project(input, &layer.value, rounding);
        let (query_width, width) = (heads * head_dim, kv_heads * head_dim);
        for (row, place) in places.iter().enumerate() {
            rotate(&mut queries[row * query_width..][..query_width], &place.angles);
            rotate(&mut keys[row * width..][..width], &place.angles);
        }
        rounding.apply(&mut queries);
        rounding.apply(&mut keys);
        for (number, row) in rows.iter().enumerate() {
            let cache = &mut caches[row.cache];
            cache.layers.resize(self.layers.len(), Default::default());
            let stored = |value: &f32| row.stored.map_or(*value, |format| format.round(*value));
            cache.layers[index].0.extend(keys[number * width..][..width].iter().map(stored));
            cache.layers[index].1.extend(values[number * width..][..width].iter().map(stored));
        }
        let mut attended = vec![0f32; rows.len() * heads * head_dim];
        for (number, (row, place)) in rows.iter().zip(places).enumerate() {
            let (keys, values) = &caches[row.cache].layers[index];
            let end = place.position + 1;
            let first = window.map_or(0, |window| end.saturating_sub(window));
            let past = first * width..end * width;
            for head in 0..heads {
                let range = (number * heads + head) * head_dim..(number * heads + head + 1) * head_dim;
                let part = head / (heads / kv_heads) * head_dim;
                let of_head = (&keys[past.clone()], &values[past.clone()], width, part);
                attend(&queries[range.clone()], of_head, &mut attended[range]);
            }
        }
        rounding.apply(&mut attended);
        attended
    }
}

/// One query over the past: softmax in f32 of the scaled products, then the mean of the values.
fn attend(query: &[f32], (keys, values, width, part): (&[f32], &[f32], usize, usize), out: &mut [f32]) {
    let scale = 1.0 / (query.len() as f32).sqrt();
    let mut scores: Vec<f32> =
        keys.chunks_exact(width).map(|key| scale * dot(query, &key[part..part + query.len()])).collect();
    let largest = scores.iter().fold(f32::NEG_INFINITY, |largest, score| largest.max(*score));
    scores.iter_mut().for_each(|score| *score = (*score - largest).exp());
    let sum: f32 = scores.iter().sum();
    for (score, value) in scores.iter().zip(values.chunks_exact(width)) {
        let share = score / sum;
        out.iter_mut().zip(&value[part..]).for_each(|(out, value)| *out += share * value);
    }
}

/// Eight sums side by side, for a compiler that does not vectorise.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0f32; 8];
    for (a, b) in a.chunks_exact(8).zip(b.chunks_exact(8)) {
        for lane in 0..8 {
            sums[lane] += a[lane] * b[lane];
        }
    }
    sums.iter().sum()
}

/// Sine and cosine of each pair's angle at one position.
fn angles(position: usize, head_dim: usize, positions: &Positions) -> Vec<(f32, f32)> {
    let angle = |pair: usize| {
        let frequency = positions.rope_theta.powf(-2.0 * pair as f64 / head_dim as f64);
        position as f64 / positions.rope_factor * frequency
    };
    (0..head_dim / 2).map(|pair| (angle(pair).sin() as f32, angle(pair).cos() as f32)).collect()
}

/// Rotary embedding of the heads of one row, halves paired.
fn rotate(heads: &mut [f32], angles: &[(f32, f32)]) {
    let half = angles.len();
    for head in heads.chunks_mut(2 * half) {
        for (pair, (sin, cos)) in angles.iter().enumerate() {
            let (x, y) = (head[pair], head[pair + half]);
            head[pair] = x * cos - y * sin;
            head[pair + half] = y * cos + x * sin;
        }
    }
}

fn product(rows: &[f32], weight: &Tensor) -> Vec<f32> {
    let inputs = weight.dims()[0];
    let rows = Tensor::from_slice(rows, (rows.len() / inputs, inputs), &Device::Cpu).unwrap();
    rows.matmul(weight).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn project(rows: &[f32], weight: &Tensor, rounding: &mut Rounding) -> Vec<f32> {
    let mut out = product(rows, weight);
    rounding.apply(&mut out);
    out
}

fn add(stream: &mut [f32], update: &[f32], rounding: &mut Rounding) {
    stream.iter_mut().zip(update).for_each(|(value, update)| *value += update);
    rounding.apply(stream);
}
