//! Colours, letters and measures of the picture.

use std::sync::OnceLock;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{FontFamily, register_font};

use crate::report::ReportError;

/// A part of the picture.
pub(super) type Area<'a> = DrawingArea<BitMapBackend<'a>, Shift>;

/// Measures in pixels.
pub(super) const WIDTH: i32 = 1800;
pub(super) const MARGIN: i32 = 48;
pub(super) const GAP: i32 = 28;

pub(super) const BACK: RGBColor = RGBColor(255, 255, 255);
pub(super) const INK: RGBColor = RGBColor(22, 32, 44);
pub(super) const SOFT: RGBColor = RGBColor(90, 102, 117);
pub(super) const LINE: RGBColor = RGBColor(223, 227, 232);
pub(super) const FLOOR: RGBColor = RGBColor(107, 118, 132);

/// The palette of all reports: Okabe and Ito's, which colour-blind readers can tell apart.
const SERIES: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(181, 86, 143),
    RGBColor(185, 133, 0),
    RGBColor(58, 155, 214),
];

const FAMILY: &str = "plumbline";

pub(super) fn series(index: usize) -> RGBColor {
    SERIES[index % SERIES.len()]
}

/// Makes the letters known, once per process.
pub(super) fn fonts() -> Result<(), ReportError> {
    static KNOWN: OnceLock<bool> = OnceLock::new();
    let known = KNOWN.get_or_init(|| {
        let regular = include_bytes!("../../assets/fonts/Roboto-Regular.ttf");
        let medium = include_bytes!("../../assets/fonts/Roboto-Medium.ttf");
        register_font(FAMILY, FontStyle::Normal, regular).is_ok()
            && register_font(FAMILY, FontStyle::Bold, medium).is_ok()
    });
    if *known { Ok(()) } else { Err(ReportError::Picture("the built-in fonts are unusable".into())) }
}

/// Any error of the drawing library.
#[allow(clippy::needless_pass_by_value, reason = "the form that map_err takes")]
pub(super) fn failed(error: impl std::fmt::Display) -> ReportError {
    ReportError::Picture(error.to_string())
}

/// Letters of a size and colour.
pub(super) fn letters(size: i32, colour: RGBColor) -> TextStyle<'static> {
    coloured((FontFamily::Name(FAMILY), size).into_font(), colour)
}

/// Stronger letters.
pub(super) fn strong(size: i32, colour: RGBColor) -> TextStyle<'static> {
    coloured((FontFamily::Name(FAMILY), size, FontStyle::Bold).into_font(), colour)
}

/// Not `TextStyle::color`, which borrows the colour.
fn coloured(font: FontDesc<'static>, colour: RGBColor) -> TextStyle<'static> {
    TextStyle { color: colour.to_backend_color(), ..TextStyle::from(font) }
}

pub(super) fn right(style: &TextStyle<'static>) -> TextStyle<'static> {
    style.pos(Pos::new(HPos::Right, VPos::Top))
}

/// At most `most` characters.
pub(super) fn shorter(text: &str, most: usize) -> String {
    let printable: String =
        text.chars().map(|character| if character.is_control() { ' ' } else { character }).collect();
    match printable.char_indices().nth(most) {
        None => printable,
        Some((end, _)) => format!("{}…", &printable[..end]),
    }
}

/// A number for people: about `digits` significant digits.
pub(super) fn number(value: Option<f64>, digits: usize) -> String {
    let Some(value) = value.filter(|value| value.is_finite()) else { return "–".into() };
    let size = value.abs();
    if value == 0.0 {
        "0".into()
    } else if !(1e-3..1e6).contains(&size) {
        format!("{value:.*e}", digits.saturating_sub(1))
    } else {
        let whole = size.log10().floor() as i32 + 1;
        format!("{value:.*}", usize::try_from(digits as i32 - whole).unwrap_or(0))
    }
}

/// A count with thin gaps between thousands.
pub(super) fn count(value: u64) -> String {
    let digits = value.to_string();
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// The label of a power of ten.
pub(super) fn decade(value: f64) -> String {
    if (1e-3..1e4).contains(&(value * 1.000_001)) {
        let text = format!("{value:.3}");
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        format!("{value:.0e}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        assert_eq!(number(Some(0.011_234), 3), "0.0112");
        assert_eq!(number(Some(-1234.56), 3), "-1235");
        assert_eq!(number(Some(1.5e-7), 3), "1.50e-7");
        assert_eq!((number(None, 3), number(Some(0.0), 3)), ("–".into(), "0".into()));
        assert_eq!((count(1_234_567), count(12)), ("1,234,567".into(), "12".into()));
        assert_eq!((decade(0.01), decade(1000.0), decade(1e-5)), ("0.01".into(), "1000".into(), "1e-5".into()));
        assert_eq!(shorter("a\nbcd", 3), "a b…");
    }
}
