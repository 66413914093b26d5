//! The vector loops, in both of their variants.

use proptest::prelude::*;

use super::super::kernels;
use crate::spec::Activation;

/// Both variants of a loop, and what it should make of a value.
type Loops<'a> = (&'a dyn Fn(&mut [f32]), &'a dyn Fn(&mut [f32]), &'a dyn Fn(usize) -> f32);

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// The loops that are compiled twice give the same numbers, up to fused roundings.
    #[test]
    fn portable_loops_agree(x in prop::collection::vec(-20f32..20.0, 0..70), other in -3f32..3.0) {
        let close = |a: f64, b: f64| (a - b).abs() <= 1e-5 * (1.0 + a.abs());
        let y: Vec<f32> = x.iter().map(|x| x * 0.3 - other).collect();
        let max = kernels::max(&x);
        prop_assert_eq!(max, kernels::max::portable(&x));
        prop_assert_eq!(max, x.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        prop_assert_eq!(kernels::count_above(&x, other), kernels::count_above::portable(&x, other));
        prop_assert_eq!(kernels::count_above(&x, other) as usize, x.iter().filter(|x| **x > other).count());
        prop_assert!(close(kernels::sum(&x), kernels::sum::portable(&x)));
        prop_assert!(close(kernels::sum(&x), x.iter().map(|x| f64::from(*x)).sum()));
        prop_assert!(close(kernels::sum_squares(&x, other), kernels::sum_squares::portable(&x, other)));
        let squares: f64 = x.iter().map(|x| f64::from(*x - other).powi(2)).sum();
        prop_assert!(close(kernels::sum_squares(&x, other), squares));
        let products: f64 = x.iter().zip(&y).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum();
        prop_assert!((f64::from(kernels::dot(&x, &y)) - products).abs() < 1e-2);
        prop_assert!((f64::from(kernels::dot::portable(&x, &y)) - products).abs() < 1e-2);

        let top = max.max(0.0);
        let (sum, weighted) = kernels::exp_sums(&x, top);
        let (portable_sum, portable_weighted) = kernels::exp_sums::portable(&x, top);
        let below = || x.iter().map(|x| f64::from(*x) - f64::from(top));
        prop_assert!(close(sum, portable_sum) && close(weighted, portable_weighted));
        prop_assert!(close(sum, below().map(f64::exp).sum()));
        prop_assert!(close(weighted, below().map(|below| below * below.exp()).sum()));
        let cooled = kernels::exp_sum_scaled(&x, top, 0.7);
        prop_assert!(close(cooled, kernels::exp_sum_scaled::portable(&x, top, 0.7)));
        prop_assert!(close(cooled, below().map(|below| (below * 0.7).exp()).sum()));
        let (mut a, mut b) = (x.clone(), x.clone());
        prop_assert!(close(kernels::exp_below(&mut a, top), kernels::exp_below::portable(&mut b, top)));
        for ((a, b), below) in a.iter().zip(&b).zip(below()) {
            prop_assert!(close(f64::from(*a), f64::from(*b)) && close(f64::from(*a), below.exp()));
        }

        for activation in [Activation::Silu, Activation::Gelu, Activation::GeluTanh, Activation::Relu] {
            let (mut a, mut b, mut gated) = (x.clone(), x.clone(), x.clone());
            kernels::activate(&mut a, activation);
            kernels::activate::portable(&mut b, activation);
            kernels::gate(&mut gated, &y, activation);
            let mut portable_gated = x.clone();
            kernels::gate::portable(&mut portable_gated, &y, activation);
            for index in 0..x.len() {
                prop_assert!(close(f64::from(a[index]), f64::from(b[index])));
                prop_assert!(close(f64::from(gated[index]), f64::from(a[index] * y[index])));
                prop_assert!(close(f64::from(gated[index]), f64::from(portable_gated[index])));
            }
        }
        let half = x.len() / 2;
        let (mut a, mut b) = (x.clone(), x.clone());
        let turn = |values: &mut [f32], portable: bool| {
            let (first, second) = values.split_at_mut(half);
            let (cos, sin) = (&y[..half], &y[half..]);
            if portable {
                kernels::rotate::portable(first, second, cos, sin);
            } else {
                kernels::rotate(first, second, cos, sin);
            }
        };
        turn(&mut a, false);
        turn(&mut b, true);
        prop_assert!(a.iter().zip(&b).all(|(a, b)| close(f64::from(*a), f64::from(*b))));
        let simple: [Loops<'_>; 4] = [
            (&|x| kernels::scale(x, other), &|x| kernels::scale::portable(x, other), &|i| x[i] * other),
            (&|x| kernels::add_scaled(x, &y, 1.0), &|x| kernels::add_scaled::portable(x, &y, 1.0), &|i| x[i] + y[i]),
            (
                &|x| kernels::add_scaled(x, &y, other),
                &|x| kernels::add_scaled::portable(x, &y, other),
                &|i| x[i] + other * y[i],
            ),
            (
                &|x| { let copy = x.to_vec(); kernels::normalise(x, &copy, &y, other, 0.5); },
                &|x| { let copy = x.to_vec(); kernels::normalise::portable(x, &copy, &y, other, 0.5); },
                &|i| (x[i] - other) * 0.5 * y[i],
            ),
        ];
        for (ours, portable, exact) in simple {
            let (mut a, mut b) = (x.clone(), x.clone());
            ours(&mut a);
            portable(&mut b);
            for index in 0..x.len() {
                prop_assert!(close(f64::from(a[index]), f64::from(exact(index))));
                prop_assert!(close(f64::from(a[index]), f64::from(b[index])));
            }
        }
        for cap in [1.0, 30.0] {
            let mut capped = x.clone();
            let mut portable = x.clone();
            kernels::softcap(&mut capped, cap);
            kernels::softcap::portable(&mut portable, cap);
            prop_assert!(capped.iter().zip(&portable).all(|(a, b)| close(f64::from(*a), f64::from(*b))));
            let exact = |x: &f32| f64::from(cap) * (f64::from(*x) / f64::from(cap)).tanh();
            prop_assert!(capped.iter().zip(&x).all(|(capped, x)| close(f64::from(*capped), exact(x))));
        }
    }
}
