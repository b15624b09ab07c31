//! All candidates in order.

use super::{Known, Random, Strategy};

/// The strategy.
#[derive(Debug, Default)]
pub struct Exhaustive {
    next: usize,
}

impl Strategy for Exhaustive {
    fn ask(&mut self, known: &Known, _random: &mut Random) -> usize {
        while known.was_asked(self.next) {
            self.next += 1;
        }
        self.next
    }
}
