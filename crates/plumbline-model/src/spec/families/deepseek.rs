//! DeepSeek V2 and V3: latent attention, grouped routing, shared experts.

use super::experts::{GATED_NAMES, counts, dense_mlp, gated};
use crate::spec::config::{ConfigError, HfConfig};
use crate::spec::layout::Layout;
use crate::spec::rope::RopeSpec;
use crate::spec::{
    AttentionProjection, DecoderSpec, ExpertsSpec, LatentSpec, MlpSpec, NormKind, NormSpec, ProjectionSpec,
    RouterGroups, RouterScoring, RouterSpec,
};

/// Hugging Face's latent norms take their class default, not the configuration's epsilon.
const LATENT_NORM_EPS: f64 = 1e-6;

pub(super) fn deepseek_v2(config: &mut HfConfig) -> Result<DecoderSpec, ConfigError> {
    let method = config.optional_string("topk_method")?.unwrap_or_else(|| "greedy".into());
    let groups = groups(config, 1)?;
    let groups = match method.as_str() {
        "greedy" => None,
        "group_limited_greedy" => groups,
        other => return Err(config.unsupported("topk_method", other)),
    };
    match config.optional_string("scoring_func")?.as_deref() {
        None | Some("softmax") => {}
        Some(other) => return Err(config.unsupported("scoring_func", other)),
    }
    if config.flag("norm_topk_prob", false)? {
        return Err(config.unsupported("norm_topk_prob", "true"));
    }
    let mlp_bias = config.flag("mlp_bias", false)?;
    if mlp_bias {
        return Err(config.unsupported("mlp_bias", "true"));
    }
    read(config, true, &Routing { scoring: RouterScoring::Softmax, groups, normalise: false, choice_bias: false })
}

pub(super) fn deepseek_v3(config: &mut HfConfig) -> Result<DecoderSpec, ConfigError> {
    match config.optional_string("topk_method")?.as_deref() {
        None | Some("noaux_tc") => {}
        Some(other) => return Err(config.unsupported("topk_method", other)),
    }
    match config.optional_string("scoring_func")?.as_deref() {
        None | Some("sigmoid") => {}
        Some(other) => return Err(config.unsupported("scoring_func", other)),
    }
    let routing = Routing {
        scoring: RouterScoring::Sigmoid,
        groups: groups(config, 2)?,
        normalise: config.flag("norm_topk_prob", true)?,
        choice_bias: true,
    };
    let interleaved = config.flag("rope_interleave", true)?;
    read(config, interleaved, &routing)
}

struct Routing {
    scoring: RouterScoring,
    groups: Option<RouterGroups>,
    normalise: bool,
    choice_bias: bool,
}

fn groups(config: &mut HfConfig, best: usize) -> Result<Option<RouterGroups>, ConfigError> {
    let (count, chosen) = (config.optional_usize("n_group")?, config.optional_usize("topk_group")?);
    Ok(match (count, chosen) {
        (Some(count), Some(chosen)) if count > 0 => Some(RouterGroups { count, chosen, best }),
        _ => None,
    })
}

fn read(config: &mut HfConfig, interleaved: bool, routing: &Routing) -> Result<DecoderSpec, ConfigError> {
    let bias = config.flag("attention_bias", false)?;
    let query_rank = config.optional_usize("q_lora_rank")?;
    let kv_rank = config.count("kv_lora_rank")?;
    let (nope, rope_dim) = (config.count("qk_nope_head_dim")?, config.count("qk_rope_head_dim")?);
    let value_dim = config.count("v_head_dim")?;
    // Derived, and said apart by some versions.
    config.discard("qk_head_dim");
    config.discard("head_dim");
    let prediction_layers = config.optional_usize("num_nextn_predict_layers")?.unwrap_or(0)
        + config.optional_usize("num_mtp_layers")?.unwrap_or(0);
    config.put("head_dim", rope_dim.into());
    let mut spec = Layout::default().read(config)?;
    spec.ropes[0].interleaved = interleaved;
    // Multi-token prediction is not part of scoring; its layers are stored after the last one.
    let first = spec.layers.len();
    spec.ignorable_tensors.extend((first..first + prediction_layers).map(|index| format!("model.layers.{index}.")));
    let (hidden, (_, activation)) = (spec.hidden_size, dense_mlp(config, &spec)?);

    let (experts, chosen) = counts(config, &["n_routed_experts", "num_local_experts"])?;
    let shared = config.optional_usize("n_shared_experts")?.filter(|shared| *shared > 0);
    let width = config.count("moe_intermediate_size")?;
    let first_sparse = config.optional_usize("first_k_dense_replace")?.unwrap_or(0);
    let step = config.optional_usize("moe_layer_freq")?.unwrap_or(1);
    if step != 1 {
        return Err(config.unsupported("moe_layer_freq", &step.to_string()));
    }
    let scale = config.optional_f64("routed_scaling_factor")?.unwrap_or(1.0);
    if let Some(groups) = &routing.groups
        && (!experts.is_multiple_of(groups.count) || groups.chosen > groups.count)
    {
        return Err(config.invalid("n_group", groups.count, format!("does not fit {experts} experts")));
    }

    let norm = |name, eps| NormSpec { name, kind: NormKind::Rms, eps, weight_offset: 0.0, bias: false };
    let mscale = rope_mscale(&spec.ropes[0]);
    for (index, layer) in spec.layers.iter_mut().enumerate() {
        let attention = &mut layer.attention;
        let name = |part: &str| format!("model.layers.{index}.self_attn.{part}");
        let (heads, head_dim) = (attention.heads, nope + rope_dim);
        attention.kv_heads = heads;
        attention.head_dim = head_dim;
        attention.value_dim = value_dim;
        attention.scale = mscale / (head_dim as f64).sqrt();
        attention.output = ProjectionSpec::single(name("o_proj"), heads * value_dim, hidden, bias);
        let query_out = heads * head_dim;
        attention.projection = AttentionProjection::Latent(LatentSpec {
            query_down: query_rank.map(|rank| {
                let down = ProjectionSpec::single(name("q_a_proj"), hidden, rank, bias);
                (down, norm(name("q_a_layernorm"), LATENT_NORM_EPS))
            }),
            query_up: match query_rank {
                Some(rank) => ProjectionSpec::single(name("q_b_proj"), rank, query_out, false),
                None => ProjectionSpec::single(name("q_proj"), hidden, query_out, false),
            },
            kv_down: ProjectionSpec::single(name("kv_a_proj_with_mqa"), hidden, kv_rank + rope_dim, bias),
            kv_norm: norm(name("kv_a_layernorm"), LATENT_NORM_EPS),
            kv_up: ProjectionSpec::single(name("kv_b_proj"), kv_rank, heads * (nope + value_dim), false),
            kv_rank,
            rope_dim,
        });
        if index < first_sparse {
            continue;
        }
        let prefix = format!("model.layers.{index}.mlp");
        let expert = |expert| gated(&format!("{prefix}.experts.{expert}"), GATED_NAMES, hidden, width, activation);
        layer.mlp = MlpSpec::Experts(Box::new(ExpertsSpec {
            router: RouterSpec {
                projection: ProjectionSpec::single(format!("{prefix}.gate"), hidden, experts, false),
                chosen,
                scoring: routing.scoring,
                choice_bias: routing.choice_bias.then(|| format!("{prefix}.gate.e_score_correction_bias")),
                groups: routing.groups,
                normalise: routing.normalise,
                scale,
            },
            experts: (0..experts).map(expert).collect(),
            shared: shared.map(|shared| {
                gated(&format!("{prefix}.shared_experts"), GATED_NAMES, hidden, width * shared, activation)
            }),
            shared_gate: None,
        }));
    }
    Ok(spec)
}

/// YaRN with `mscale_all_dim` sharpens the attention as well, by the square of its factor.
fn rope_mscale(rope: &RopeSpec) -> f64 {
    rope.attention_sharpening().powi(2)
}
