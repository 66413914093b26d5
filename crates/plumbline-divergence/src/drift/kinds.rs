//! Step, steps with policy versions, or creep: which of the three the history looks like.

use super::history::Segment;
use crate::student::t_99;

/// Version changes that are needed to call something version-locked.
const LEAST_CHANGES: usize = 4;
/// Segments that are needed to tell a creep from a step.
const LEAST_SEGMENTS: usize = 8;
/// A creep is called where its likelihood is larger than the step's by this many e-foldings, times 2.
const CREEP_EVIDENCE: f64 = 6.0;

/// Variance of the mean of many jumps, as a multiple of what it were if they were independent. With independent noise in the
/// halves `a` and `b` of versions `v`, a jump is `1.5 a(v+1) - 1.5 b(v) + 0.5 a(v) - 0.5 b(v+1)`: variance 5; and their sum
/// is one of `2 (a - b)`: variance 8 for each.
const NEIGHBOURS: f64 = 8.0 / 5.0;

/// Whether levels jump at policy version changes, beyond what happens within versions.
///
/// Each version is cut into halves. The jump from the last half of one version to the first half of the next, less the mean
/// of what happens between the halves of those two versions, is 0 for a level that is constant or creeps. A t test over
/// the changes (99 %) says whether it is not; the scatter between changes is its own yardstick, so that one step, which
/// falls on one change at most, is no proof.
pub(super) fn steps_with_versions(segments: &[Segment]) -> bool {
    let mut jumps = Vec::new();
    let mut before: Option<(u64, [f64; 2])> = None;
    for version in segments.chunk_by(|a, b| a.version == b.version) {
        if version.len() < 2 {
            before = None;
            continue;
        }
        let (early, late) = version.split_at(version.len() / 2);
        let halves = [mean_log(early), mean_log(late)];
        if let Some((number, previous)) = before
            && number + 1 == version[0].version
        {
            let within = f64::midpoint(previous[1] - previous[0], halves[1] - halves[0]);
            jumps.push(halves[0] - previous[1] - within);
        }
        before = Some((version[0].version, halves));
    }
    if jumps.len() < LEAST_CHANGES {
        return false;
    }
    let count = jumps.len() as f64;
    let mean = jumps.iter().sum::<f64>() / count;
    let squares: f64 = jumps.iter().map(|jump| (jump - mean).powi(2)).sum();
    mean.abs() > t_99(count - 1.0) * (NEIGHBOURS * squares / (count * (count - 1.0))).sqrt()
}

/// Whether "constant, then linear from some point on" fits better than "constant, then another constant", both by weighted
/// least squares with the best point.
pub(super) fn creeps(segments: &[Segment]) -> bool {
    if segments.len() < LEAST_SEGMENTS {
        return false;
    }
    let best = |shape: &dyn Fn(f64, f64) -> f64| {
        let points = segments[..segments.len() - 1].iter().map(Segment::middle);
        points.map(|point| residual(segments, |middle| shape(middle, point))).fold(f64::INFINITY, f64::min)
    };
    let step = best(&|middle, point| f64::from(u8::from(middle > point)));
    let creep = best(&|middle, point| (middle - point).max(0.0));
    // Nothing is left to explain where the step fits exactly.
    step > 0.0 && segments.len() as f64 * (step / creep).ln() > CREEP_EVIDENCE
}

fn mean_log(segments: &[Segment]) -> f64 {
    let sum: f64 = segments.iter().map(|segment| segment.weighted_log).sum();
    sum / segments.iter().map(|segment| segment.weight).sum::<f64>()
}

/// Weighted sum of squares that is left of the segments' mean log levels after regression on a shape.
fn residual(segments: &[Segment], shape: impl Fn(f64) -> f64) -> f64 {
    let total: f64 = segments.iter().map(|segment| segment.weight).sum();
    let mean = |value: &dyn Fn(&Segment) -> f64| {
        segments.iter().map(|segment| segment.weight * value(segment)).sum::<f64>() / total
    };
    let (x_mean, y_mean) = (mean(&|s| shape(s.middle())), mean(&|s| s.mean_log()));
    let xx = mean(&|s| (shape(s.middle()) - x_mean).powi(2));
    let xy = mean(&|s| (shape(s.middle()) - x_mean) * (s.mean_log() - y_mean));
    let yy = mean(&|s| (s.mean_log() - y_mean).powi(2));
    // The shape varies: it is 0 up to the chosen point and positive at the last segment.
    (yy - xy * xy / xx).max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 8 sequences a segment, `per_version` segments a version, with small pseudo-random noise.
    fn history(count: u64, per_version: u64, level: impl Fn(u64) -> f64) -> Vec<Segment> {
        let noise = |index: u64| ((index.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as f64 / 2f64.powi(24) - 0.5) * 0.1;
        let segment = |index| Segment {
            version: index / per_version,
            first: index * 8,
            count: 8,
            weight: 8.0,
            weighted_log: 8.0 * (level(index) + noise(index)),
        };
        (0..count).map(segment).collect()
    }

    fn after(index: u64, start: u64, value: f64) -> f64 {
        if index >= start { value } else { 0.0 }
    }

    #[test]
    fn each_shape_is_recognised() {
        let step = |index| after(index, 37, 0.7);
        let step_at_version_change = |index| after(index, 40, 0.7);
        let creep = |index: u64| after(index, 20, 0.02 * (index as f64 - 20.0));
        let grows_with_versions = |index: u64| 0.15 * (index / 8) as f64;
        let sawtooth = |index: u64| after(index % 8, 4, -0.8);
        let resets = |index: u64| 0.1 * (index % 8) as f64;
        for (levels, version_steps, creep) in [
            (history(80, 8, step), false, false),
            (history(80, 8, step_at_version_change), false, false),
            (history(80, 8, creep), false, true),
            (history(80, 8, grows_with_versions), true, true),
            (history(80, 8, sawtooth), true, false),
            (history(80, 8, resets), true, false),
        ] {
            assert_eq!((steps_with_versions(&levels), creeps(&levels)), (version_steps, creep));
        }
    }

    #[test]
    fn little_history_proves_nothing() {
        for count in 0..LEAST_SEGMENTS as u64 {
            assert!(!creeps(&history(count, 1, |index| index as f64)));
        }
        // Versions of a single segment have no halves, and four changes are needed.
        assert!(!steps_with_versions(&history(50, 1, |index| index as f64)));
        assert!(!steps_with_versions(&history(4 * 8, 8, |index| (index / 8) as f64)));
    }
}
