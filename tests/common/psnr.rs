//! How near pictures are.

/// The peak signal-to-noise ratio in dB of values that span `range`.
pub fn psnr_db<T: Copy + Into<f64>>(range: f64, a: &[T], b: &[T]) -> f64 {
    assert_eq!(a.len(), b.len());
    let squares = a.iter().zip(b).map(|(a, b)| ((*a).into() - (*b).into()).powi(2)).sum::<f64>();
    10.0 * (range * range * a.len() as f64 / squares).log10()
}
