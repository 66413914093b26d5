//! Writing cells.

use rust_xlsxwriter::{
    Chart, ChartFont, ChartLegendPosition, ChartLine, Color, Format, FormatAlign, FormatBorder, Worksheet, XlsxError,
};

/// Characters of a cell at most; Excel's own limit is 32767.
const MAX_CHARS: usize = 8_000;

/// The palette of all reports.
pub(super) const SERIES: [u32; 6] = [0x00_72B2, 0xD5_5E00, 0x00_9E73, 0xB5_568F, 0xB9_8500, 0x3A_9BD6];

/// Cell formats that several sheets use.
pub(super) struct Styles {
    pub(super) title: Format,
    pub(super) heading: Format,
    pub(super) head: Format,
    pub(super) soft: Format,
    pub(super) wrapped: Format,
    pub(super) general: Format,
    pub(super) count: Format,
    pub(super) nats: Format,
    pub(super) fine: Format,
    pub(super) percent: Format,
}

impl Styles {
    pub(super) fn new() -> Self {
        let base = || Format::new().set_align(FormatAlign::Top);
        let grey = Color::RGB(0x5A6675);
        Self {
            title: Format::new().set_bold().set_font_size(16),
            heading: Format::new().set_bold().set_font_size(12),
            head: base()
                .set_bold()
                .set_font_color(grey)
                .set_border_bottom(FormatBorder::Thin)
                .set_border_color(Color::RGB(0xC3CAD3))
                .set_text_wrap(),
            soft: base().set_font_color(grey),
            wrapped: base().set_text_wrap(),
            general: base().set_num_format("General"),
            count: base().set_num_format("#,##0"),
            nats: base().set_num_format("0.0000"),
            fine: base().set_num_format("0.000E+00"),
            percent: base().set_num_format("0.0%"),
        }
    }

    /// How a value of this size is best read.
    pub(super) fn of(&self, value: f64) -> &Format {
        let size = value.abs();
        if value.fract() == 0.0 && size < 1e15 {
            &self.count
        } else if (1e-2..1e5).contains(&size) {
            &self.nats
        } else {
            &self.fine
        }
    }

    /// The colours of a verdict.
    pub(super) fn verdict(verdict: &str) -> Format {
        let (ink, back) = match verdict {
            "consistent" => (0x0A7A5C, 0xE3F4EE),
            "suspect" => (0x8A5A00, 0xFDF1D6),
            "divergent" => (0xB3400B, 0xFCE8DD),
            _ => (0x5A6675, 0xECEFF2),
        };
        Format::new()
            .set_bold()
            .set_align(FormatAlign::Top)
            .set_font_color(Color::RGB(ink))
            .set_background_color(Color::RGB(back))
    }
}

/// A text as a cell can hold it: bounded, and without what XML has no way to write.
pub(super) fn text(text: &str) -> String {
    let unwritable = |character: char| {
        (character.is_control() && !matches!(character, '\n' | '\t')) || matches!(character, '\u{fffe}' | '\u{ffff}')
    };
    let shown = text.chars().take(MAX_CHARS);
    let mut cell: String = shown.map(|character| if unwritable(character) { '\u{fffd}' } else { character }).collect();
    if text.chars().nth(MAX_CHARS).is_some() {
        cell.push('…');
    }
    cell
}

/// Writes a text cell.
pub(super) fn put(sheet: &mut Worksheet, row: u32, column: u16, value: &str, format: &Format) -> Result<(), XlsxError> {
    sheet.write_string_with_format(row, column, text(value), format).map(|_| ())
}

/// Writes a number in the format that suits its size; an undefined one leaves the cell empty.
pub(super) fn number(
    sheet: &mut Worksheet,
    row: u32,
    column: u16,
    value: Option<f64>,
    styles: &Styles,
) -> Result<(), XlsxError> {
    match value.filter(|value| value.is_finite()) {
        Some(value) => sheet.write_number_with_format(row, column, value, styles.of(value)).map(|_| ()),
        None => Ok(()),
    }
}

/// Writes a number in a given format.
pub(super) fn number_as(
    sheet: &mut Worksheet,
    row: u32,
    column: u16,
    value: Option<f64>,
    format: &Format,
) -> Result<(), XlsxError> {
    match value.filter(|value| value.is_finite()) {
        Some(value) => sheet.write_number_with_format(row, column, value, format).map(|_| ()),
        None => Ok(()),
    }
}

/// Writes a row of column heads and sets the columns' widths.
pub(super) fn heads(sheet: &mut Worksheet, row: u32, heads: &[(&str, f64)], styles: &Styles) -> Result<(), XlsxError> {
    for (column, (head, width)) in (0u16..).zip(heads) {
        put(sheet, row, column, head, &styles.head)?;
        sheet.set_column_width(column, *width)?;
    }
    Ok(())
}

/// Names and look that all charts share.
pub(super) fn dress(chart: &mut Chart, title: &str, x: &str, y: &str) {
    let grey = Color::RGB(0x5A6675);
    let font = || {
        let mut font = ChartFont::new();
        font.set_size(9).set_color(grey);
        font
    };
    let mut bold = ChartFont::new();
    bold.set_size(12).set_bold();
    chart.title().set_name(title).set_font(&bold);
    chart.legend().set_position(ChartLegendPosition::Bottom).set_font(&font());
    chart.x_axis().set_name(x).set_name_font(&font()).set_font(&font()).set_major_gridlines(false);
    let mut faint = ChartLine::new();
    faint.set_color(Color::RGB(0xDFE3E8)).set_width(0.75);
    chart.y_axis().set_name(y).set_name_font(&font()).set_font(&font()).set_major_gridlines_line(&faint);
    chart.set_width(720).set_height(340);
}
