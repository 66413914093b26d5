//! Panels with lines: the density of `d`, `|d|` by something else, and a sequence.

use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;

use super::canvas::{Area, BACK, FLOOR, INK, LINE, SOFT, decade, failed, letters, series, shorter, strong};
use crate::document::{EngineDocument, ProfileView, ShownSequence};
use crate::report::ReportError;

/// Places of the panels' parts, in pixels.
const HEADING: i32 = 34;
const LABELS: i32 = 70;

type LogY = LogCoord<f64>;
type Chart<'a, 'b, X> = ChartContext<'a, BitMapBackend<'b>, Cartesian2d<X, LogY>>;

/// A panel with a logarithmic `y` axis that holds all `values`.
fn panel<'a, 'b, X>(
    area: &'a Area<'b>,
    title: &str,
    x: X,
    values: &[f64],
) -> Result<Chart<'a, 'b, X::CoordDescType>, ReportError>
where
    X: AsRangedCoord<Value = f64>,
    X::CoordDescType: ValueFormatter<f64>,
{
    area.draw_text(title, &strong(19, INK), (0, 0)).map_err(failed)?;
    let (low, high) = extent(values);
    ChartBuilder::on(area)
        .margin_top(HEADING)
        .margin_right(16)
        .set_label_area_size(LabelAreaPosition::Left, LABELS)
        .set_label_area_size(LabelAreaPosition::Bottom, LABELS - 12)
        .build_cartesian_2d(x, (low..high).log_scale())
        .map_err(failed)
}

/// Smallest and largest positive value, with some air.
fn extent(values: &[f64]) -> (f64, f64) {
    let positive = values.iter().copied().filter(|value| *value > 0.0);
    let (low, high) = positive.fold((f64::INFINITY, 0.0f64), |(low, high), value| (low.min(value), high.max(value)));
    if low.is_finite() { (low * 0.7, high * 1.5) } else { (1e-6, 1.0) }
}

/// Axes and their names.
fn mesh<X: Ranged<ValueType = f64> + ValueFormatter<f64>>(
    chart: &mut Chart<'_, '_, X>,
    (x, y): (&str, &str),
    labels: usize,
    label: &dyn Fn(&f64) -> String,
) -> Result<(), ReportError> {
    chart
        .configure_mesh()
        .light_line_style(BACK)
        .bold_line_style(LINE)
        .axis_style(LINE)
        .x_labels(labels)
        .y_labels(7)
        .x_label_formatter(label)
        .y_label_formatter(&|value| decade(*value))
        .label_style(letters(15, SOFT))
        .axis_desc_style(letters(16, SOFT))
        .x_desc(x)
        .y_desc(y)
        .draw()
        .map_err(failed)
}

fn line(points: Vec<(f64, f64)>, colour: RGBColor, width: u32) -> LineSeries<BitMapBackend<'static>, (f64, f64)> {
    LineSeries::new(points, colour.stroke_width(width))
}

/// How `d` is distributed, all engines.
pub(super) fn densities(area: &Area<'_>, engines: &[EngineDocument]) -> Result<(), ReportError> {
    let limit = engines.iter().map(|engine| engine.views.log_ratios.limit).fold(1e-9, f64::max);
    let values: Vec<f64> = engines.iter().flat_map(|engine| engine.views.log_ratios.density.iter().copied()).collect();
    let mut chart = panel(area, "Density of the log ratio", -limit..limit, &values)?;
    let digits = if limit < 0.02 { None } else { Some(2) };
    let label = |value: &f64| digits.map_or_else(|| format!("{value:.0e}"), |digits| format!("{value:.digits$}"));
    mesh(&mut chart, ("d = reference - engine, nats", "tokens per nat (share)"), 9, &label)?;
    for (index, engine) in engines.iter().enumerate() {
        let view = &engine.views.log_ratios;
        let points = view.middles().zip(view.density.iter().copied()).filter(|(_, density)| *density > 0.0);
        chart.draw_series(line(points.collect(), series(index), 2)).map_err(failed)?;
    }
    legend(area, engines, false)
}

/// `|d|` by position on a logarithmic axis.
pub(super) fn by_position(area: &Area<'_>, engines: &[EngineDocument]) -> Result<(), ReportError> {
    let views: Vec<_> = engines.iter().map(|engine| &engine.views.by_position).collect();
    // Positions count from 1 here: a logarithmic axis has no 0.
    let place = |view: &ProfileView, bin: usize| {
        let from = view.from[bin] + 1.0;
        (from * view.to[bin].unwrap_or(from).max(from)).sqrt()
    };
    let last = views.iter().filter_map(|view| Some(place(view, view.from.len().checked_sub(1)?))).fold(2.0, f64::max);
    let mut chart = panel(area, "|d| by position", (1.0..last * 1.05).log_scale(), &drawn(&views))?;
    mesh(&mut chart, ("position in the completion, tokens", "|d|, nats"), 8, &|value| decade(*value))?;
    profiles(&mut chart, &views, place)?;
    legend(area, engines, false)
}

/// `|d|` by bins side by side.
pub(super) fn by_bins(
    area: &Area<'_>,
    engines: &[EngineDocument],
    title: &str,
    x: &str,
    view: impl Fn(&EngineDocument) -> &ProfileView,
) -> Result<(), ReportError> {
    let views: Vec<_> = engines.iter().map(view).collect();
    let mut starts: Vec<f64> = views.iter().flat_map(|view| view.from.iter().copied()).collect();
    starts.sort_unstable_by(f64::total_cmp);
    starts.dedup();
    let index = |from: f64| starts.partition_point(|start| *start < from) as f64;
    let bins = starts.len().max(2) as f64;
    let mut chart = panel(area, title, -0.5..bins - 0.5, &drawn(&views))?;
    let label = |value: &f64| {
        let at = value.round();
        let whole = (value - at).abs() < 1e-6 && at >= 0.0;
        // Written out, the smallest ones run into each other.
        let short = |start: &f64| if *start > 0.0 && *start < 1e-3 { format!("{start:e}") } else { format!("{start}") };
        starts.get(at as usize).filter(|_| whole).map_or_else(String::new, short)
    };
    mesh(&mut chart, (&format!("{x} (from)"), "|d|, nats"), starts.len().max(2), &label)?;
    profiles(&mut chart, &views, |view, bin| index(view.from[bin]))?;
    let floor = views.iter().find_map(|view| Some((view, view.floor.as_ref()?)));
    if let Some((view, floor)) = &floor {
        let points: Vec<_> = view.from.iter().zip(floor.iter()).map(|(from, floor)| (index(*from), *floor)).collect();
        chart.draw_series(DashedLineSeries::new(points, 7, 5, FLOOR.stroke_width(2))).map_err(failed)?;
    }
    legend(area, engines, floor.is_some())
}

/// Everything that profiles draw, for the extent of the axis.
fn drawn(views: &[&ProfileView]) -> Vec<f64> {
    let all = |view: &&ProfileView| [view.mean.clone(), view.p50.clone(), view.p99.clone()].concat();
    views.iter().flat_map(all).collect()
}

/// Means as lines, and the band from the median to the 99 % quantile.
fn profiles<X: Ranged<ValueType = f64>>(
    chart: &mut Chart<'_, '_, X>,
    views: &[&ProfileView],
    place: impl Fn(&ProfileView, usize) -> f64,
) -> Result<(), ReportError> {
    for (index, view) in views.iter().enumerate() {
        let colour = series(index);
        let points = |values: &[f64]| -> Vec<(f64, f64)> {
            let all = values.iter().enumerate().filter(|(_, value)| **value > 0.0);
            all.map(|(bin, value)| (place(view, bin), *value)).collect()
        };
        let mut band = points(&view.p99);
        band.extend(points(&view.p50).into_iter().rev());
        chart.draw_series([Polygon::new(band, colour.mix(0.12))]).map_err(failed)?;
        let means = points(&view.mean);
        chart.draw_series(line(means.clone(), colour, 2)).map_err(failed)?;
        chart.draw_series(means.into_iter().map(|at| Circle::new(at, 3, colour.filled()))).map_err(failed)?;
    }
    Ok(())
}

/// Names of the lines, in the heading's line.
fn legend(area: &Area<'_>, engines: &[EngineDocument], floor: bool) -> Result<(), ReportError> {
    let (width, _) = area.dim_in_pixel();
    let mut names: Vec<_> =
        engines.iter().enumerate().take(5).map(|(at, one)| (shorter(&one.engine, 20), series(at))).collect();
    if engines.len() < 2 {
        names.clear();
    }
    if floor {
        names.push(("noise floor".into(), FLOOR));
    }
    let mut right = width as i32 - 16;
    for (name, colour) in names.into_iter().rev() {
        let style = letters(16, INK);
        let (size, _) = area.estimate_text_size(&name, &style).map_err(failed)?;
        right -= size as i32;
        area.draw_text(&name, &style, (right, 3)).map_err(failed)?;
        area.draw(&Rectangle::new([(right - 20, 10), (right - 6, 14)], colour.filled())).map_err(failed)?;
        right -= 36;
    }
    Ok(())
}

/// Both curves of a sequence, and `|d|` below.
pub(super) fn sequence(area: &Area<'_>, shown: &ShownSequence, title: &str) -> Result<(), ReportError> {
    let heading = format!("{title} ({} tokens)", shown.sequence.completion_tokens);
    area.draw_text(&heading, &strong(19, INK), (0, 0)).map_err(failed)?;
    let (width, height) = area.dim_in_pixel();
    let upper = (height as i32 * 62) / 100;
    let tokens = &shown.tokens;
    let count = tokens.id.len().max(2) as f64;
    let points = |values: &[Option<f64>]| -> Vec<(f64, f64)> {
        values.iter().zip(1u32..).filter_map(|(value, at)| Some((f64::from(at), (*value)?))).collect()
    };
    let (engine, reference) = (points(&tokens.engine_logprob), points(&tokens.reference_logprob));
    let shown_values = engine.iter().chain(&reference).map(|(_, value)| *value);
    // Sentinels would press all else to a line.
    let low = shown_values.filter(|value| *value > -60.0).fold(-0.1, f64::min);
    let top = area.clone().shrink((0, HEADING), (width as i32, upper - HEADING));
    let mut chart = linear(&top, 1.0..count, low * 1.05..0.0 - low * 0.02, 8)?;
    axes(&mut chart, ("", "logprob, nats"))?;
    let kept = |points: Vec<(f64, f64)>| points.into_iter().filter(|(_, value)| *value >= low).collect();
    chart.draw_series(line(kept(engine), series(0), 2)).map_err(failed)?;
    chart.draw_series(line(kept(reference), series(1), 1)).map_err(failed)?;
    let gaps = points(&tokens.log_ratio.iter().map(|delta| delta.map(f64::abs)).collect::<Vec<_>>());
    let most = gaps.iter().map(|(_, gap)| *gap).fold(1e-9, f64::max);
    let bottom = area.clone().shrink((0, upper), (width as i32, height as i32 - upper));
    let mut chart = linear(&bottom, 1.0..count, 0.0..most * 1.1, LABELS - 12)?;
    axes(&mut chart, ("token of the completion", "|d|, nats"))?;
    let bars =
        gaps.into_iter().map(|(at, gap)| PathElement::new(vec![(at, 0.0), (at, gap)], series(2).stroke_width(2)));
    chart.draw_series(bars).map_err(failed)?;
    for (name, colour, left) in [("engine", series(0), 190), ("reference", series(1), 90)] {
        let at = width as i32 - left;
        area.draw(&Rectangle::new([(at - 20, 10), (at - 6, 14)], colour.filled())).map_err(failed)?;
        area.draw_text(name, &letters(16, INK), (at, 3)).map_err(failed)?;
    }
    Ok(())
}

type Linear<'a, 'b> = ChartContext<'a, BitMapBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

fn linear<'a, 'b>(
    area: &'a Area<'b>,
    x: std::ops::Range<f64>,
    y: std::ops::Range<f64>,
    below: i32,
) -> Result<Linear<'a, 'b>, ReportError> {
    ChartBuilder::on(area)
        .margin_right(16)
        .margin_top(8)
        .set_label_area_size(LabelAreaPosition::Left, LABELS)
        .set_label_area_size(LabelAreaPosition::Bottom, below)
        .build_cartesian_2d(x, y)
        .map_err(failed)
}

fn axes(chart: &mut Linear<'_, '_>, (x, y): (&str, &str)) -> Result<(), ReportError> {
    let short =
        |value: &f64| if value.abs() < 1e-2 && *value != 0.0 { format!("{value:.0e}") } else { format!("{value:.2}") };
    chart
        .configure_mesh()
        .light_line_style(BACK)
        .bold_line_style(LINE)
        .axis_style(LINE)
        .x_labels(if x.is_empty() { 0 } else { 8 })
        .y_labels(5)
        .x_label_formatter(&|value| format!("{value:.0}"))
        .y_label_formatter(&short)
        .label_style(letters(15, SOFT))
        .axis_desc_style(letters(16, SOFT))
        .x_desc(x)
        .y_desc(y)
        .draw()
        .map_err(failed)
}
