//! A sequence token by token, with both curves and `|d|` as charts.

use rust_xlsxwriter::{
    Chart, ChartFormat, ChartLine, ChartType, Color, ConditionalFormat3ColorScale, ConditionalFormatType, Worksheet,
    XlsxError,
};

use super::cells::{SERIES, Styles, dress, heads, number, number_as, put};
use super::sequences::warm_scale;
use crate::document::ShownSequence;

/// The row of the column heads.
const HEAD: u32 = 5;

/// Blue to white to orange, white at 0.
fn signed_scale() -> ConditionalFormat3ColorScale {
    ConditionalFormat3ColorScale::new()
        .set_minimum_color("6FA8DC")
        .set_midpoint_color("FFFFFF")
        .set_midpoint(ConditionalFormatType::Number, 0)
        .set_maximum_color("F2A36B")
}

/// The sheet, with at most `most` tokens.
pub(super) fn sheet(
    sheet: &mut Worksheet,
    engine: &str,
    shown: &ShownSequence,
    most: usize,
    styles: &Styles,
) -> Result<(), XlsxError> {
    let (row, tokens) = (&shown.sequence, &shown.tokens);
    let count = tokens.id.len().min(most);
    put(sheet, 0, 0, &format!("{engine}: {}", row.id), &styles.heading)?;
    put(sheet, 1, 0, &format!("Chosen as {}.", shown.choice), &styles.soft)?;
    put(sheet, 2, 0, &format!("{}: {}", row.verdict, row.verdict_reason), &styles.general)?;
    let left = row.completion_tokens - count;
    let cut = if left > 0 { format!(" The last {left} of its tokens are not here.") } else { String::new() };
    put(sheet, 3, 0, &format!("d = reference - engine, in nats.{cut}"), &styles.soft)?;
    let columns = [
        ("token", 8.0),
        ("id", 9.0),
        ("text", 22.0),
        ("engine e", 11.0),
        ("reference r", 11.0),
        ("d = r - e", 11.0),
        ("|d|", 11.0),
        ("rank", 8.0),
        ("entropy", 10.0),
        ("in no sum", 14.0),
    ];
    heads(sheet, HEAD, &columns, styles)?;
    for at in 0..count {
        let line = HEAD + 1 + at as u32;
        number_as(sheet, line, 0, Some(at as f64 + 1.0), &styles.general)?;
        number_as(sheet, line, 1, Some(f64::from(tokens.id[at])), &styles.general)?;
        if let Some(text) = tokens.text.as_ref().and_then(|texts| texts.get(at)) {
            // As a JSON string: what is invisible can be seen.
            put(sheet, line, 2, &serde_json::Value::from(text.as_str()).to_string(), &styles.general)?;
        }
        let delta = tokens.log_ratio[at];
        number_as(sheet, line, 3, tokens.engine_logprob[at], &styles.nats)?;
        number_as(sheet, line, 4, tokens.reference_logprob[at], &styles.nats)?;
        number(sheet, line, 5, delta, styles)?;
        number(sheet, line, 6, delta.map(f64::abs), styles)?;
        number_as(sheet, line, 7, tokens.rank[at].map(f64::from), &styles.count)?;
        number_as(sheet, line, 8, tokens.entropy[at], &styles.nats)?;
        put(sheet, line, 9, tokens.skipped[at].unwrap_or_default(), &styles.soft)?;
    }
    sheet.set_freeze_panes(HEAD + 1, 0)?;
    if count == 0 {
        return Ok(());
    }
    let (first, last) = (HEAD + 1, HEAD + count as u32);
    sheet.add_conditional_format(first, 5, last, 5, &signed_scale())?;
    sheet.add_conditional_format(first, 6, last, 6, &warm_scale())?;
    sheet.add_conditional_format(first, 8, last, 8, &warm_scale())?;
    let curves = [(3, "engine", SERIES[0], 1.25), (4, "reference", SERIES[1], 1.25)];
    let chart = chart(sheet, &curves, (first, last), "Logprobs", "logprob, nats");
    sheet.insert_chart(HEAD, 11, &chart)?;
    let gap = [(6, "|d|", SERIES[2], 1.0)];
    let mut chart = self::chart(sheet, &gap, (first, last), "|d|", "|d|, nats");
    chart.legend().set_hidden();
    sheet.insert_chart(HEAD + 18, 11, &chart)?;
    Ok(())
}

fn chart(sheet: &Worksheet, lines: &[(u16, &str, u32, f64)], (first, last): (u32, u32), title: &str, y: &str) -> Chart {
    let name = sheet.name();
    let mut chart = Chart::new(ChartType::ScatterStraight);
    for (column, label, colour, width) in lines {
        let mut stroke = ChartLine::new();
        stroke.set_color(Color::RGB(*colour)).set_width(*width);
        chart
            .add_series()
            .set_name(*label)
            .set_categories((name.as_str(), first, 0, last, 0))
            .set_values((name.as_str(), first, *column, last, *column))
            .set_format(ChartFormat::new().set_line(&stroke));
    }
    dress(&mut chart, title, "token of the completion", y);
    chart.x_axis().set_min(0).set_max(last - first + 2);
    // Logprobs are negative: the axis belongs at the bottom.
    chart.x_axis().set_label_position(rust_xlsxwriter::ChartAxisLabelPosition::Low);
    chart
}
