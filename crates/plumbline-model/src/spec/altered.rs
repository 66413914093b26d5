//! Decoders that differ from another in one thing, as a wrong configuration makes them.

use plumbline_core::Variant;

use super::{DecoderSpec, RopeScaling, RopeSpec};

impl DecoderSpec {
    /// This decoder with one setting changed. The tensors that it asks for stay the same.
    ///
    /// `None` for a variant that is not about settings, for a value that no model can have, and where this decoder has nothing
    /// of the kind: then it would not differ.
    pub(crate) fn altered(&self, variant: &Variant) -> Option<Self> {
        let mut spec = self.clone();
        match *variant {
            Variant::RopeTheta(theta) => {
                let possible = theta.is_finite() && theta > 1.0;
                spec.change_ropes(|rope| {
                    possible.then(|| RopeSpec { theta, scaling: RopeScaling::Default, ..rope.clone() })
                })?;
            }
            Variant::RopeFactor(factor) => {
                let possible = factor.is_finite() && factor > 0.0;
                spec.change_ropes(|rope| {
                    possible.then(|| RopeSpec { position_divisor: rope.position_divisor * factor, ..rope.clone() })
                })?;
            }
            Variant::RopeUnscaled => spec.change_ropes(|rope| {
                (rope.scaling != RopeScaling::Default)
                    .then(|| RopeSpec { scaling: RopeScaling::Default, ..rope.clone() })
            })?,
            Variant::SlidingWindow(window) => spec.change_windows(window)?,
            Variant::LogitSoftcap(softcap) => {
                let possible = softcap.is_none_or(|cap| cap.is_finite() && cap > 0.0);
                if !possible || spec.head.softcap == softcap {
                    return None;
                }
                spec.head.softcap = softcap;
            }
            Variant::Bf16 { .. } | Variant::Bf16Head | Variant::WithoutAdapter => return None,
        }
        Some(spec)
    }

    /// Replaces the rotary embeddings for which there is a replacement, if there are any.
    fn change_ropes(&mut self, replacement: impl Fn(&RopeSpec) -> Option<RopeSpec>) -> Option<()> {
        let before = self.ropes.clone();
        for rope in &mut self.ropes {
            if let Some(other) = replacement(rope) {
                *rope = other;
            }
        }
        for layer in &mut self.layers {
            let Some(index) = layer.attention.rope else { continue };
            // The scaling of some rotary embeddings has a part in the attention's scale.
            let sharpening =
                |ropes: &[RopeSpec]| ropes.get(index).map_or(1.0, |rope| rope.attention_sharpening().powi(2));
            let (old, new) = (sharpening(&before), sharpening(&self.ropes));
            if old != new {
                layer.attention.scale *= new / old;
            }
        }
        (before != self.ropes).then_some(())
    }

    /// Gives the layers that have a window another one; all layers if none has one.
    fn change_windows(&mut self, window: Option<usize>) -> Option<()> {
        if window == Some(0) {
            return None;
        }
        let windowed = self.layers.iter().any(|layer| layer.attention.window.is_some());
        let layers = self.layers.iter_mut().map(|layer| &mut layer.attention);
        let mut changed = false;
        for attention in layers.filter(|attention| !windowed || attention.window.is_some()) {
            changed |= attention.window != window;
            attention.window = window;
        }
        changed.then_some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(name: &str) -> DecoderSpec {
        let path = format!("{}/../../tests/fixtures/models/{name}/config.json", env!("CARGO_MANIFEST_DIR"));
        DecoderSpec::from_config_json(&std::fs::read(path).unwrap()).unwrap()
    }

    #[test]
    fn what_would_not_differ_is_no_variant() {
        let same = |name: &str, variant| spec(name).altered(&variant).is_none();
        assert!(same("llama", Variant::RopeUnscaled));
        assert!(same("llama", Variant::RopeTheta(10_000.0)));
        assert!(same("llama", Variant::RopeFactor(1.0)));
        assert!(same("llama", Variant::SlidingWindow(None)));
        assert!(same("llama", Variant::LogitSoftcap(None)));
        assert!(same("gpt2", Variant::RopeTheta(5e5)));
        assert!(same("gpt2", Variant::RopeFactor(2.0)));
        let cap = spec("gemma2").head.softcap;
        assert!(cap.is_some() && same("gemma2", Variant::LogitSoftcap(cap)));
        assert!(same("llama", Variant::WithoutAdapter));
    }

    #[test]
    fn values_that_no_model_can_have_are_refused() {
        for theta in [0.0, -1e4, 1.0, f64::NAN, f64::INFINITY] {
            assert_eq!(spec("llama").altered(&Variant::RopeTheta(theta)), None, "{theta}");
        }
        for value in [0.0, -2.0, f64::NAN, f64::INFINITY] {
            assert_eq!(spec("llama").altered(&Variant::RopeFactor(value)), None, "{value}");
            assert_eq!(spec("llama").altered(&Variant::LogitSoftcap(Some(value))), None, "{value}");
        }
        assert_eq!(spec("llama").altered(&Variant::SlidingWindow(Some(0))), None);
    }

    #[test]
    fn windows_change_where_there_are_some_or_everywhere() {
        let windows =
            |spec: &DecoderSpec| -> Vec<_> { spec.layers.iter().map(|layer| layer.attention.window).collect() };
        let mixed = spec("gemma2");
        let altered = mixed.altered(&Variant::SlidingWindow(Some(5))).unwrap();
        assert!(windows(&mixed).contains(&None) && windows(&mixed).iter().any(Option::is_some));
        for (before, after) in windows(&mixed).into_iter().zip(windows(&altered)) {
            assert_eq!(after, before.map(|_| 5));
        }
        let without = spec("llama").altered(&Variant::SlidingWindow(Some(5))).unwrap();
        assert!(windows(&without).iter().all(|window| *window == Some(5)));
    }
}
