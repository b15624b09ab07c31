//! See `kernels/attention_register.cl` and `kernels/attention_local.cl`.

use super::Arguments;

mod fast;
pub(super) mod lanes;

pub use fast::fast;

pub fn definition(arguments: &Arguments) {
    let [q, k, v] = ["q", "k", "v"].map(|name| arguments.reals(name));
    let [q_stride, k_stride, v_stride] =
        ["q_stride", "k_stride", "v_stride"].map(|name| arguments.size(name));
    let [q_start, k_start, v_start] =
        ["q_start", "k_start", "v_start"].map(|name| arguments.size(name));
    let (queries, keys) = (arguments.size("queries"), arguments.size("keys"));
    let (heads, head_width) = (arguments.size("heads"), arguments.parameter("HEAD_WIDTH") as usize);
    let (first_sample, samples) = (arguments.size("first_sample"), arguments.size("samples"));
    let (first_query, causal) = (arguments.size("first_query"), arguments.size("causal") != 0);
    let scale = f64::from(arguments.float("scale"));
    let mut y = arguments.reals_out("y");
    for sample in 0..samples {
        let context = (first_sample + sample) * keys;
        for head in 0..heads {
            let column = head * head_width;
            let key = |row: usize, c: usize| {
                f64::from(k.get((context + row) * k_stride + k_start + column + c))
            };
            let value = |row: usize, c: usize| {
                f64::from(v.get((context + row) * v_stride + v_start + column + c))
            };
            for row in 0..queries {
                let q_row = (sample * queries + row) * q_stride + q_start + column;
                let query: Vec<f64> =
                    (0..head_width).map(|c| f64::from(q.get(q_row + c))).collect();
                let seen = if causal { keys.min(first_query + row + 1) } else { keys };
                let score =
                    |row| (0..head_width).map(|c| query[c] * key(row, c)).sum::<f64>() * scale;
                let scores: Vec<f64> = (0..seen).map(score).collect();
                let largest = scores.iter().copied().fold(f64::MIN, f64::max);
                let weights: Vec<f64> = scores.iter().map(|s| (s - largest).exp()).collect();
                let total: f64 = weights.iter().sum();
                for c in 0..head_width {
                    let sum: f64 = (0..seen).map(|row| weights[row] * value(row, c)).sum();
                    let y_row = (sample * queries + row) * heads * head_width + column;
                    y.set(y_row + c, sum / total);
                }
            }
        }
    }
}
