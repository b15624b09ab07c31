//! Simulated annealing: steps to neighbours, worse ones ever more seldom.

use super::{Known, Random, Strategy};

/// A step to a candidate that is so much slower is taken with probability 1/e at first.
const FIRST_SLOWDOWN: f64 = 0.3;
/// The same at the end: steps below this are within the noise of a measurement.
const LAST_SLOWDOWN: f64 = 0.01;
/// Trials from the first temperature to the last; it stays there.
const COOLING: f64 = 100.0;

/// The strategy.
#[derive(Debug, Default)]
pub struct Anneal {
    /// Where it stands; a candidate that failed is infinitely slow.
    here: Option<(usize, f64)>,
}

impl Strategy for Anneal {
    fn ask(&mut self, known: &Known, random: &mut Random) -> usize {
        let from = |here| known.new_neighbours(here);
        let mut neighbours = self.here.map(|(here, _)| from(here)).unwrap_or_default();
        if neighbours.is_empty() {
            // All around is known: on from the best, which may have new neighbours.
            self.here = known.best();
            neighbours = self.here.map(|(best, _)| from(best)).unwrap_or_default();
        }
        if neighbours.is_empty() {
            self.here = None;
            return known.draw(random);
        }
        neighbours[random.below(neighbours.len())]
    }

    fn tell(&mut self, known: &Known, random: &mut Random) {
        let Some(&(candidate, seconds)) = known.trials().last() else { return };
        let seconds = seconds.unwrap_or(f64::INFINITY);
        let Some((_, here)) = self.here.filter(|(_, here)| here.is_finite()) else {
            self.here = Some((candidate, seconds));
            return;
        };
        let cooled = (known.trials().len() as f64 / COOLING).min(1.0);
        let slowdown = FIRST_SLOWDOWN * (LAST_SLOWDOWN / FIRST_SLOWDOWN).powf(cooled);
        if random.unit() < (-(seconds / here - 1.0) / slowdown).exp() {
            self.here = Some((candidate, seconds));
        }
    }
}
