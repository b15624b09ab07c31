//! A forest of regression trees over what was measured proposes the most promising candidate.
//!
//! Each tree splits the space by one parameter at a time, at drawn places, where that parts slow
//! from quick; its leaves hold the mean of the logarithms of the times. The forest's mean less its
//! trees' disagreement is how quick a candidate may well be: the least one is asked for, in turns of
//! all candidates and of the neighbours of the best.

use super::{Known, Random, Strategy};

/// Trees of a forest: their mean and spread change little with more.
const TREES: usize = 48;
/// Drawn candidates after the starts, before the forest has anything to say.
const DRAWN: usize = 3;
/// How many deviations of the trees below the mean a candidate is taken to be.
const OPTIMISM: f64 = 0.5;
/// A candidate that failed counts as so many times slower than the slowest.
const FAILED: f64 = 2.0;

/// The strategy.
#[derive(Debug, Default)]
pub struct Model {
    drawn: usize,
}

impl Strategy for Model {
    fn ask(&mut self, known: &Known, random: &mut Random) -> usize {
        let trials = known.trials();
        let slowest = trials.iter().filter_map(|(_, seconds)| *seconds).fold(0.0, f64::max);
        if self.drawn < DRAWN || slowest == 0.0 {
            self.drawn += 1;
            return farthest(known, random);
        }
        let samples: Vec<Sample> = trials
            .iter()
            .map(|&(candidate, seconds)| Sample {
                ranks: known.space().ranks(candidate),
                value: seconds.unwrap_or(FAILED * slowest).ln(),
            })
            .collect();
        let trees: Vec<Node> =
            (0..TREES).map(|_| Node::grow(&mut samples.clone(), random)).collect();
        let promise = |candidate: usize| {
            let ranks = known.space().ranks(candidate);
            let (mut sum, mut squares) = (0.0, 0.0);
            for value in trees.iter().map(|tree| tree.predict(ranks)) {
                sum += value;
                squares += value * value;
            }
            let mean = sum / TREES as f64;
            mean - OPTIMISM * (squares / TREES as f64 - mean * mean).max(0.0).sqrt()
        };
        let near = known.best().filter(|_| trials.len().is_multiple_of(2));
        let mut left = near.map(|(best, _)| known.new_neighbours(best)).unwrap_or_default();
        if left.is_empty() {
            left.extend((0..known.space().len()).filter(|&candidate| !known.was_asked(candidate)));
        }
        let promises = left.into_iter().map(|candidate| (candidate, promise(candidate)));
        promises.min_by(|a, b| a.1.total_cmp(&b.1)).expect("a candidate is left").0
    }
}

/// Of a few drawn candidates the one farthest from all that were tried.
fn farthest(known: &Known, random: &mut Random) -> usize {
    let space = known.space();
    let distance = |a: usize, b: usize| -> f64 {
        let ranks = space.ranks(a).iter().zip(space.ranks(b)).zip(space.axes());
        ranks.map(|((&a, &b), axis)| f64::from(a.abs_diff(b)) / axis.values.len() as f64).sum()
    };
    let nearest = |candidate: usize| {
        let distances = known.trials().iter().map(|&(other, _)| distance(candidate, other));
        distances.fold(f64::INFINITY, f64::min)
    };
    let drawn: Vec<usize> = (0..16).map(|_| known.draw(random)).collect();
    let by_distance = drawn.into_iter().map(|candidate| (candidate, nearest(candidate)));
    by_distance.max_by(|a, b| a.1.total_cmp(&b.1)).expect("some were drawn").0
}

/// What was measured of a candidate.
#[derive(Clone, Debug)]
struct Sample<'a> {
    ranks: &'a [u16],
    value: f64,
}

/// A tree: a mean, or two trees on either side of a rank.
#[derive(Debug)]
enum Node {
    Leaf(f64),
    Split { axis: usize, rank: u16, sides: Box<[Node; 2]> },
}

impl Node {
    fn grow(samples: &mut [Sample], random: &mut Random) -> Self {
        let mean = |samples: &[Sample]| {
            samples.iter().map(|sample| sample.value).sum::<f64>() / samples.len() as f64
        };
        // For each axis a drawn place; of these the split that leaves the least squares.
        let mut best: Option<(f64, usize, u16)> = None;
        for axis in 0..samples[0].ranks.len() {
            let ranks = samples.iter().map(|sample| sample.ranks[axis]);
            let (least, most) = (ranks.clone().min().unwrap_or(0), ranks.max().unwrap_or(0));
            if least == most {
                continue;
            }
            let rank = least + random.below(usize::from(most - least)) as u16;
            let squares = |above: bool| {
                let side = samples.iter().filter(|sample| (sample.ranks[axis] > rank) == above);
                let (count, sum, squares) = side.fold((0.0, 0.0, 0.0), |(n, sum, squares), s| {
                    (n + 1.0, sum + s.value, squares + s.value * s.value)
                });
                squares - sum * sum / count
            };
            let rest = squares(false) + squares(true);
            if best.is_none_or(|(least, ..)| rest < least) {
                best = Some((rest, axis, rank));
            }
        }
        let Some((_, axis, rank)) = best else { return Node::Leaf(mean(samples)) };
        samples.sort_by_key(|sample| sample.ranks[axis]);
        let middle = samples.partition_point(|sample| sample.ranks[axis] <= rank);
        let (below, above) = samples.split_at_mut(middle);
        let sides = [Node::grow(below, random), Node::grow(above, random)];
        Node::Split { axis, rank, sides: Box::new(sides) }
    }

    fn predict(&self, ranks: &[u16]) -> f64 {
        match self {
            Node::Leaf(value) => *value,
            Node::Split { axis, rank, sides } => {
                sides[usize::from(ranks[*axis] > *rank)].predict(ranks)
            }
        }
    }
}
