//! Which version of the weights sampled what, as engines say it.

use plumbline_core::VersionSpan;

use super::at::At;
use super::error::Found;

/// What vLLM and SGLang call weights that nobody gave a version.
const UNNAMED: &str = "default";

/// The version of a completion.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Versions {
    /// One version that sampled all of it.
    pub(super) whole: Option<String>,
    /// Spans, if there were several.
    pub(super) spans: Vec<VersionSpan>,
    /// Where that stands.
    pub(super) pointer: Option<String>,
}

/// Reads `weight_versions`, or else `weight_version`, of an object.
pub(super) fn versions_in(at: &At<'_>) -> Found<Versions> {
    if let Some(list) = at.field("weight_versions") {
        let spans = list.elements()?.map(|span| span_at(&span)).collect::<Found<Vec<_>>>()?;
        let pointer = Some(list.pointer());
        match spans.first().map(|span| span.version.clone()) {
            Some(first) if spans.iter().all(|span| span.version == first) => {
                return Ok(Versions { whole: named(first), pointer, spans: Vec::new() });
            }
            Some(_) => return Ok(Versions { whole: None, spans, pointer }),
            None => {}
        }
    }
    match at.field("weight_version") {
        Some(version) => {
            Ok(Versions { whole: named(name_at(&version)?), pointer: Some(version.pointer()), spans: Vec::new() })
        }
        None => Ok(Versions::default()),
    }
}

fn span_at(at: &At<'_>) -> Found<VersionSpan> {
    Ok(VersionSpan {
        version: name_at(&at.required("version")?)?,
        start: at.required("start")?.count()?,
        end: at.required("end")?.count()?,
    })
}

/// A version is an opaque string; some trainers set a number.
fn name_at(at: &At<'_>) -> Found<String> {
    match at.value.as_i64() {
        Some(number) => Ok(number.to_string()),
        None => at.string().map(str::to_owned),
    }
}

fn named(version: String) -> Option<String> {
    (version != UNNAMED).then_some(version)
}
