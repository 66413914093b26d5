//! `report.html`: one file with everything in it.
//!
//! The page is built in the browser from the report's own JSON. All names and texts are hostile: they are data in that JSON, the
//! page's scripts turn data into text nodes only, and a content security policy forbids whatever would be loaded or sent.

mod embed;
mod modules;

use serde_json::Value;

pub(crate) use self::embed::round;
use self::embed::{escaped_json, escaped_text, shortened};
use self::modules::joined;
use crate::assets::{MODULES, PARTS_CSS, PLOTLY_JS, THEME_CSS};
use crate::document::Document;
use crate::report::ReportError;

const REPORT_CSS: &str = include_str!("../../assets/report.css");
const REPORT_JS: &str = include_str!("../../assets/report.js");

/// Nothing is loaded from anywhere, and nothing is sent.
const POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; \
                      base-uri 'none'; form-action 'none'";

/// The page.
pub(crate) fn page(document: &Document) -> Result<String, ReportError> {
    let mut value: Value = serde_json::to_value(document)?;
    shortened(&mut value);
    let data = escaped_json(&value)?;
    let title = escaped_text(&document.title);
    let mut page = String::with_capacity(PLOTLY_JS.len() + data.len() + (1 << 17));
    page.push_str("<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n");
    page.push_str("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n");
    page.push_str(&format!("<meta http-equiv=\"Content-Security-Policy\" content=\"{POLICY}\">\n"));
    page.push_str(&format!("<title>{title} · Plumbline</title>\n<link rel=\"icon\" href=\"data:,\">\n"));
    page.push_str(&format!(
        "<style>\n{THEME_CSS}\n{PARTS_CSS}\n{REPORT_CSS}</style>\n</head>\n<body>\n<main id=\"report\"></main>\n"
    ));
    page.push_str("<noscript><p>This page needs JavaScript. The same numbers are in report.json and report.xlsx.</p></noscript>\n");
    page.push_str(&format!("<script id=\"report-data\" type=\"application/json\">{data}</script>\n"));
    let modules = joined(MODULES.map(|(_, source)| source).into_iter().chain([REPORT_JS]));
    page.push_str(&format!("<script>{PLOTLY_JS}</script>\n<script type=\"module\">\n{modules}</script>\n"));
    page.push_str("</body>\n</html>\n");
    Ok(page)
}
