//! Statistics of logits rows: what the reference says about a token, accumulated in f64.

use candle_core::{D, DType, Device, Result, Tensor};
use rayon::prelude::*;

use crate::ops::TargetScore;

/// A target within a chunk of logits rows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct HeadTarget {
    /// Row of the chunk.
    pub(super) row: usize,
    pub(super) token: u32,
    /// Softmax temperature, > 0.
    pub(super) temperature: f64,
}

/// Statistics of logits rows `[rows, vocab]` for the targets in them.
pub(super) fn scores(logits: &Tensor, targets: &[HeadTarget], eos: &[u32]) -> Result<Vec<TargetScore>> {
    if logits.device().is_cuda() {
        scores_on_device(logits, targets, eos)
    } else {
        // Metal has no f64.
        scores_on_slices(&logits.to_device(&Device::Cpu)?, targets, eos)
    }
}

/// One row of logits against one target; the definition of every number.
fn score_row(logits: &[f64], target: &HeadTarget, eos: &[u32]) -> TargetScore {
    let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let (mut sum, mut weighted) = (0.0, 0.0);
    for logit in logits {
        let below = logit - max;
        let weight = below.exp();
        sum += weight;
        if weight > 0.0 {
            weighted += weight * below;
        }
    }
    let log_sum = sum.ln();
    let chosen = logits[target.token as usize];
    let logprob = chosen - max - log_sum;
    let logprob_at_temperature = if target.temperature == 1.0 {
        logprob
    } else {
        let sum: f64 = logits.iter().map(|logit| ((logit - max) / target.temperature).exp()).sum();
        (chosen - max) / target.temperature - sum.ln()
    };
    TargetScore {
        logprob,
        logprob_at_temperature,
        entropy: log_sum - weighted / sum,
        rank: logits.iter().filter(|logit| **logit > chosen).count() as u32,
        eos_probability: eos.iter().map(|id| (logits[*id as usize] - max - log_sum).exp()).sum(),
    }
}

/// Host memory: each row in f64, rows in parallel. A row's numbers depend on that row only.
fn scores_on_slices(logits: &Tensor, targets: &[HeadTarget], eos: &[u32]) -> Result<Vec<TargetScore>> {
    targets
        .par_iter()
        .map(|target| {
            let row = logits.get(target.row)?.to_dtype(DType::F64)?.to_vec1::<f64>()?;
            Ok(score_row(&row, target, eos))
        })
        .collect()
}

/// Device memory: only the results leave it. Exponentials in the logits' dtype, sums in f64.
fn scores_on_device(logits: &Tensor, targets: &[HeadTarget], eos: &[u32]) -> Result<Vec<TargetScore>> {
    let device = logits.device();
    let rows: Vec<u32> = targets.iter().map(|target| target.row as u32).collect();
    let logits = logits.index_select(&Tensor::new(rows, device)?, 0)?;
    let below = logits.broadcast_sub(&logits.max_keepdim(D::Minus1)?)?;
    let weights = below.exp()?.to_dtype(DType::F64)?;
    let sum = weights.sum_keepdim(D::Minus1)?;
    let log_sum = sum.log()?;
    // A weight of 0 belongs to a logit so low that its share of the entropy is 0 too, even where that logit is -inf.
    let share = (&weights * below.maximum(-1e4)?.to_dtype(DType::F64)?)?;
    let entropy = (&log_sum - share.sum_keepdim(D::Minus1)?.div(&sum)?)?;

    let count = targets.len();
    let ids: Vec<u32> = targets.iter().map(|target| target.token).collect();
    let chosen = below.gather(&Tensor::from_vec(ids, (count, 1), device)?, 1)?;
    let rank = below.broadcast_gt(&chosen)?.to_dtype(DType::F64)?.sum(D::Minus1)?;
    let chosen = chosen.to_dtype(DType::F64)?;
    let logprob = (&chosen - &log_sum)?;

    // Another pass over the vocabulary, which most batches do not need.
    let logprob_at_temperature = if targets.iter().all(|target| target.temperature == 1.0) {
        logprob.clone()
    } else {
        let temperatures: Vec<f64> = targets.iter().map(|target| target.temperature).collect();
        let temperatures = Tensor::from_vec(temperatures, (count, 1), device)?;
        let cooled = below.broadcast_div(&temperatures.to_dtype(below.dtype())?)?;
        let log_sum_cooled = cooled.exp()?.to_dtype(DType::F64)?.sum_keepdim(D::Minus1)?.log()?;
        (chosen.div(&temperatures)? - log_sum_cooled)?
    };

    let eos_probability = if eos.is_empty() {
        logprob.zeros_like()?
    } else {
        weights.index_select(&Tensor::new(eos, device)?, 1)?.sum_keepdim(D::Minus1)?.div(&sum)?
    };
    let column = |tensor: &Tensor| tensor.flatten_all()?.to_vec1::<f64>();
    let (logprob, cooled, entropy) = (column(&logprob)?, column(&logprob_at_temperature)?, column(&entropy)?);
    let (rank, eos_probability) = (column(&rank)?, column(&eos_probability)?);
    Ok((0..count)
        .map(|index| TargetScore {
            logprob: logprob[index],
            // The same bits where the temperature changes nothing.
            logprob_at_temperature: if targets[index].temperature == 1.0 { logprob[index] } else { cooled[index] },
            entropy: entropy[index],
            rank: rank[index] as u32,
            eos_probability: eos_probability[index],
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The two implementations agree on rows with close, far and repeated logits, at several temperatures.
    #[test]
    fn device_and_host_statistics_agree() {
        let rows = [
            vec![0.5f32, -3.0, 7.25, 7.25, -80.0, 1.0],
            vec![0.0; 6],
            vec![100.0, -100.0, 99.5, 0.0, 3.0, f32::NEG_INFINITY],
        ];
        let logits = Tensor::new(rows.concat(), &Device::Cpu).unwrap().reshape((3, 6)).unwrap();
        let targets: Vec<HeadTarget> = [(0, 2, 1.0), (0, 4, 0.7), (1, 5, 1.3), (2, 3, 1.0), (2, 2, 0.25)]
            .map(|(row, token, temperature)| HeadTarget { row, token, temperature })
            .into();
        let host = scores_on_slices(&logits, &targets, &[1, 3]).unwrap();
        let device = scores_on_device(&logits, &targets, &[1, 3]).unwrap();
        for (host, device) in host.iter().zip(&device) {
            let close = |a: f64, b: f64| (a - b).abs() <= 1e-6 * (1.0 + a.abs());
            assert!(close(host.logprob, device.logprob), "{host:?} {device:?}");
            assert!(close(host.logprob_at_temperature, device.logprob_at_temperature), "{host:?} {device:?}");
            assert!(close(host.entropy, device.entropy), "{host:?} {device:?}");
            assert!(close(host.eos_probability, device.eos_probability), "{host:?} {device:?}");
            assert_eq!(host.rank, device.rank);
        }
        assert_eq!(host[0].rank, 0, "a tie is not a higher logit");
    }

    #[test]
    fn a_uniform_row_has_known_numbers() {
        let logits = Tensor::zeros((1, 8), DType::F32, &Device::Cpu).unwrap();
        let target = HeadTarget { row: 0, token: 3, temperature: 0.5 };
        let score = scores_on_slices(&logits, &[target], &[0, 1]).unwrap()[0];
        let nats = 8f64.ln();
        assert_eq!((score.logprob, score.logprob_at_temperature, score.entropy), (-nats, -nats, nats));
        assert_eq!(score.rank, 0);
        assert!((score.eos_probability - 0.25).abs() < 1e-15);
    }
}
