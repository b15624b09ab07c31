//! Between the ecosystem's `[N, C, H, W]` and the `[N, H, W, C]` of every tensor here.

/// `[N, C, pixels]` to `[N, pixels, C]`.
pub fn channels_last(values: &[f32], channels: usize, pixels: usize) -> Vec<f32> {
    transpose(values, channels, pixels)
}

/// `[N, pixels, C]` to `[N, C, pixels]`.
pub fn channels_first(values: &[f32], channels: usize, pixels: usize) -> Vec<f32> {
    transpose(values, pixels, channels)
}

/// Each `[rows, columns]` of `values` to `[columns, rows]`.
fn transpose(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    let mut result = Vec::with_capacity(values.len());
    for matrix in values.chunks_exact(rows * columns) {
        for column in 0..columns {
            result.extend((0..rows).map(|row| matrix[row * columns + column]));
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back_is_the_same() {
        let values: Vec<f32> = (0..12).map(|value| value as f32).collect();
        let last = channels_last(&values, 2, 3);
        assert_eq!(last[..6], [0., 3., 1., 4., 2., 5.]);
        assert_eq!(channels_first(&last, 2, 3), values);
    }
}
