//! One version of the weights, held once by each model thread.

use plumbline_core::ReferenceInfo;

/// A field in which two models differ.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Difference {
    pub(crate) field: &'static str,
    pub(crate) found: String,
    pub(crate) expected: String,
}

/// In what `found` is not the same model as `expected`. Where it runs, how it is called and its version are no part of that.
pub(crate) fn difference(expected: &ReferenceInfo, found: &ReferenceInfo) -> Option<Difference> {
    let fields = |info: &ReferenceInfo| {
        [
            ("family", info.family.clone()),
            ("vocab_size", info.limits.vocab_size.to_string()),
            ("max_positions", info.limits.max_positions.to_string()),
            ("parameters", info.parameters.to_string()),
            ("dtype", info.dtype.clone()),
            ("head_dtype", info.head_dtype.clone()),
        ]
    };
    let mut pairs = fields(expected).into_iter().zip(fields(found));
    pairs.find(|((_, expected), (_, found))| expected != found).map(|((field, expected), (_, found))| Difference {
        field,
        found,
        expected,
    })
}

/// The identity of a version from those of its copies, in the order of the model threads: the memory of all, and where all
/// are.
///
/// # Errors
/// The copies are not of one version of one model.
pub(crate) fn joined(copies: &[ReferenceInfo]) -> Result<ReferenceInfo, String> {
    let [first, others @ ..] = copies else { return Err("there is no copy of the model".into()) };
    for other in others {
        let version = (first.policy_version != other.policy_version).then(|| Difference {
            field: "policy_version",
            found: other.policy_version.clone(),
            expected: first.policy_version.clone(),
        });
        if let Some(Difference { field, found, expected }) = difference(first, other).or(version) {
            let (here, there) = (&first.device, &other.device);
            return Err(format!(
                "the copies of the model differ: {field} is {expected} on {here} and {found} on {there}"
            ));
        }
    }
    Ok(ReferenceInfo {
        weight_bytes: copies.iter().map(|copy| copy.weight_bytes).sum(),
        device: joined_devices(first, others),
        ..first.clone()
    })
}

/// `cuda:0` and `cuda:1` become `cuda:0,1`.
fn joined_devices(first: &ReferenceInfo, others: &[ReferenceInfo]) -> String {
    let kind = first.device.find(':').map_or("", |colon| &first.device[..=colon]);
    others.iter().fold(first.device.clone(), |all, other| {
        let index = other.device.strip_prefix(kind).unwrap_or(&other.device);
        format!("{all},{index}")
    })
}

#[cfg(test)]
mod tests {
    use plumbline_core::ModelLimits;

    use super::*;

    fn on(device: &str) -> ReferenceInfo {
        ReferenceInfo {
            model: "m".into(),
            family: "f".into(),
            policy_version: "1".into(),
            dtype: "bf16".into(),
            head_dtype: "f32".into(),
            device: device.into(),
            parameters: 1,
            weight_bytes: 4,
            eos_token_ids: Vec::new(),
            limits: ModelLimits { vocab_size: 1, max_positions: 1 },
        }
    }

    #[test]
    fn copies_make_one_identity() {
        let one = joined(&[on("cuda:3")]).unwrap();
        assert_eq!(one, on("cuda:3"));
        let three = joined(&[on("cuda:3"), on("cuda:0"), on("cuda:11")]).unwrap();
        assert_eq!(three, ReferenceInfo { weight_bytes: 12, ..on("cuda:3,0,11") });
        assert_eq!(joined(&[on("cpu"), on("cpu")]).unwrap().device, "cpu,cpu");
        assert_eq!(joined(&[on("cuda:0"), on("cpu")]).unwrap().device, "cuda:0,cpu");
        assert!(joined(&[]).is_err());
    }

    #[test]
    fn copies_of_different_models_or_versions_are_refused() {
        let refused = "the copies of the model differ: ";
        let other = ReferenceInfo { dtype: "f32".into(), ..on("cuda:1") };
        let expected = format!("{refused}dtype is bf16 on cuda:0 and f32 on cuda:1");
        assert_eq!(joined(&[on("cuda:0"), other]), Err(expected));
        let other = ReferenceInfo { policy_version: "2".into(), ..on("cuda:1") };
        let expected = format!("{refused}policy_version is 1 on cuda:0 and 2 on cuda:1");
        assert_eq!(joined(&[on("cuda:0"), other]), Err(expected));
    }
}
