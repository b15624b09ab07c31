//! Numbers of 8 bits: what f8_e4m3 and f8_e5m2 share.

/// The fields of such a number, from the sign down.
pub(super) struct Fields {
    pub fraction_bits: u32,
    /// What is added to the exponent of a number that is not among the smallest.
    pub bias: i32,
    pub largest: f32,
}

impl Fields {
    /// The bits of the nearest number, half to even; of the largest for what is larger.
    pub fn nearest(&self, value: f32) -> u8 {
        let magnitude = value.abs().min(self.largest);
        let least_normal = 2f32.powi(1 - self.bias);
        let code = if magnitude < least_normal {
            let steps = 2f32.powi(self.fraction_bits as i32 + self.bias - 1);
            (magnitude * steps).round_ties_even() as u32
        } else {
            let dropped = 23 - self.fraction_bits;
            let bits = magnitude.to_bits();
            let even = bits >> dropped & 1;
            let rounded = (bits + (1 << (dropped - 1)) - 1 + even) >> dropped;
            rounded - (((127 - self.bias) as u32) << self.fraction_bits)
        };
        code as u8 | (value.is_sign_negative() as u8) << 7
    }
}
