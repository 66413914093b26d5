//! The live page: files of the binary, served to anybody. They hold no data: the page asks the API for it, with the key of whoever
//! looks at it.
//!
//! Nothing is loaded from elsewhere and nothing is made of foreign text but text nodes; the policy below holds the page to it.

mod asset;

use std::sync::{Arc, LazyLock};

use axum::Router;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::Response;
use axum::routing::get;
use plumbline_report::assets::{MODULES, PARTS_CSS, PLOTLY_JS, THEME_CSS};

use self::asset::{Asset, Kind};
use crate::problem::{Code, Problem};
use crate::state::AppState;

/// What the page may do: load its own files, and ask its own server. Inline styles are two harmless things of plotly: an empty style
/// element (the hash), which it fills through the object model, and attributes of its drawings.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
                      style-src-elem 'self' 'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='; style-src-attr 'unsafe-inline'; \
                      img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The page itself.
static INDEX: LazyLock<Asset> = LazyLock::new(|| Asset::new("", Kind::Html, include_str!("../../assets/index.html")));

/// Everything that it loads, by path below `/assets/`.
static FILES: LazyLock<Vec<Asset>> = LazyLock::new(|| {
    let own = [
        ("page.css", Kind::Css, include_str!("../../assets/page.css")),
        ("theme.js", Kind::JavaScript, include_str!("../../assets/theme.js")),
        ("icon.svg", Kind::Svg, include_str!("../../assets/icon.svg")),
        ("page/app.js", Kind::JavaScript, include_str!("../../assets/page/app.js")),
        ("page/api.js", Kind::JavaScript, include_str!("../../assets/page/api.js")),
        ("page/chrome.js", Kind::JavaScript, include_str!("../../assets/page/chrome.js")),
        ("page/compare.js", Kind::JavaScript, include_str!("../../assets/page/compare.js")),
        ("page/exports.js", Kind::JavaScript, include_str!("../../assets/page/exports.js")),
        ("page/live.js", Kind::JavaScript, include_str!("../../assets/page/live.js")),
        ("page/morph.js", Kind::JavaScript, include_str!("../../assets/page/morph.js")),
        ("page/run.js", Kind::JavaScript, include_str!("../../assets/page/run.js")),
        ("page/runs.js", Kind::JavaScript, include_str!("../../assets/page/runs.js")),
        ("page/sequence.js", Kind::JavaScript, include_str!("../../assets/page/sequence.js")),
        ("page/sequences.js", Kind::JavaScript, include_str!("../../assets/page/sequences.js")),
        ("page/trends.js", Kind::JavaScript, include_str!("../../assets/page/trends.js")),
        ("page/words.js", Kind::JavaScript, include_str!("../../assets/page/words.js")),
        ("shared/theme.css", Kind::Css, THEME_CSS),
        ("shared/parts.css", Kind::Css, PARTS_CSS),
        ("shared/plotly.js", Kind::JavaScript, PLOTLY_JS),
    ];
    let shared = MODULES.map(|(name, text)| Asset::new(format!("shared/{name}"), Kind::JavaScript, text));
    own.into_iter().map(|(path, kind, text)| Asset::new(path, kind, text)).chain(shared).collect()
});

/// The page.
pub(crate) async fn index(headers: &HeaderMap) -> Response {
    let mut response = INDEX.answer(headers).await;
    let mut set = |name: HeaderName, value| {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    };
    set(header::CONTENT_SECURITY_POLICY, POLICY);
    set(header::X_FRAME_OPTIONS, "DENY");
    set(header::REFERRER_POLICY, "no-referrer");
    set(HeaderName::from_static("cross-origin-opener-policy"), "same-origin");
    response
}

/// The files that it loads.
pub(crate) fn files() -> Router<Arc<AppState>> {
    Router::new().route("/assets/{*file}", get(file))
}

async fn file(axum::extract::Path(path): axum::extract::Path<String>, headers: HeaderMap) -> Result<Response, Problem> {
    match FILES.iter().find(|file| file.path == path) {
        Some(file) => Ok(file.answer(&headers).await),
        None => Err(Problem::new(Code::NotFound, format!("there is nothing at /assets/{path}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a text names after `start`, up to `end`.
    fn named<'a>(text: &'a str, start: &str, end: char) -> Vec<&'a str> {
        text.split(start).skip(1).filter_map(|rest| rest.split(end).next()).collect()
    }

    #[test]
    fn everything_that_is_loaded_is_there_and_nothing_is_in_vain() {
        let mut loaded: Vec<String> = Vec::new();
        for attribute in ["href=\"/assets/", "src=\"/assets/"] {
            loaded.extend(named(INDEX.text, attribute, '"').into_iter().map(str::to_owned));
        }
        for file in FILES.iter().filter(|file| file.path.ends_with(".js")) {
            loaded.extend(named(file.text, "\"/assets/", '"').into_iter().map(str::to_owned));
            let folder = file.path.split('/').next().unwrap();
            for line in file.text.lines().filter(|line| line.starts_with("import ")) {
                let from = line.rsplit_once(" from \"").unwrap().1.trim_end_matches("\";");
                let path = match from.strip_prefix("../") {
                    Some(other) => other.to_owned(),
                    None => format!("{folder}/{}", from.strip_prefix("./").unwrap()),
                };
                loaded.push(path);
            }
        }
        for path in &loaded {
            assert!(FILES.iter().any(|file| file.path == *path), "{path} is loaded and not there");
        }
        for file in FILES.iter() {
            assert!(loaded.contains(&file.path), "{} is never loaded", file.path);
        }
    }

    #[test]
    fn nothing_makes_markup_of_text_and_nothing_is_inline() {
        for file in FILES.iter().filter(|file| file.path.ends_with(".js") && !file.path.ends_with("plotly.js")) {
            for way in [
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "eval(",
                "Function(",
                "localStorage.setItem(\"key",
            ] {
                assert!(!file.text.contains(way), "{}: {way}", file.path);
            }
            let elsewhere = file.text.replace("http://www.w3.org/2000/svg", "");
            assert!(
                !elsewhere.contains("http://") && !elsewhere.contains("https://"),
                "{} loads from elsewhere",
                file.path
            );
        }
        for inline in ["<style", "style=", "onclick", "javascript:", "<script>"] {
            assert!(!INDEX.text.contains(inline), "{inline}");
        }
    }
}
