//! Greedy steps to better neighbours; where there is none, again from a drawn candidate.

use super::{Known, Random, Strategy};

/// The strategy. It stands on a candidate and takes the first neighbour that is quicker.
#[derive(Debug, Default)]
pub struct Local {
    /// Where it stands; a candidate that failed is infinitely slow.
    here: Option<(usize, f64)>,
}

impl Strategy for Local {
    fn ask(&mut self, known: &Known, random: &mut Random) -> usize {
        let neighbours = self.here.map(|(here, _)| known.new_neighbours(here)).unwrap_or_default();
        if neighbours.is_empty() {
            self.here = None;
            return known.draw(random);
        }
        neighbours[random.below(neighbours.len())]
    }

    fn tell(&mut self, known: &Known, _random: &mut Random) {
        let Some(&(candidate, seconds)) = known.trials().last() else { return };
        let seconds = seconds.unwrap_or(f64::INFINITY);
        if self.here.is_none_or(|(_, here)| seconds < here) {
            self.here = Some((candidate, seconds));
        }
    }
}
