//! What pages of Plumbline are made of: one implementation for the report and for the live page.

/// Colours, type and the parts that all pages share.
pub const THEME_CSS: &str = include_str!("../assets/theme.css");
/// Cards, findings, heat maps: what shows measurements.
pub const PARTS_CSS: &str = include_str!("../assets/parts.css");
/// The plotting library, which defines `window.Plotly`.
pub const PLOTLY_JS: &str = include_str!("../assets/plotly/plotly-cartesian.min.js");

/// The shared ES modules and their file names, each after those that it imports.
pub const MODULES: [(&str, &str); 6] = [
    ("format.js", include_str!("../assets/format.js")),
    ("dom.js", include_str!("../assets/dom.js")),
    ("figures.js", include_str!("../assets/figures.js")),
    ("draw.js", include_str!("../assets/draw.js")),
    ("parts.js", include_str!("../assets/parts.js")),
    ("tokens.js", include_str!("../assets/tokens.js")),
];
