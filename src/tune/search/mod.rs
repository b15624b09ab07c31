//! Search: which candidate to try next.
//!
//! A [`Search`] is asked for candidates and told what came of them. What every strategy needs is
//! here: no candidate is asked for twice, the default and other starts come first, and the end is
//! known. A [`Strategy`] only proposes. The same seed and outcomes give the same candidates.

use std::fmt;
use std::str::FromStr;

use super::space::Space;
use crate::Error;

mod anneal;
mod exhaustive;
mod local;
mod model;
mod random;

pub(super) use random::Random;

/// What is known of a space.
#[derive(Debug)]
pub struct Known<'a> {
    space: &'a Space,
    asked: Vec<bool>,
    left: usize,
    trials: Vec<(usize, Option<f64>)>,
}

/// A way to choose the next candidate.
pub trait Strategy: fmt::Debug + Send {
    /// A candidate that was not asked for yet; there is one.
    fn ask(&mut self, known: &Known, random: &mut Random) -> usize;

    /// Takes note of the last of [`Known::trials`].
    fn tell(&mut self, _known: &Known, _random: &mut Random) {}
}

/// The strategies by name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum StrategyKind {
    /// All candidates in order.
    Exhaustive,
    /// Candidates drawn evenly.
    Random,
    /// Simulated annealing: steps to neighbours, worse ones ever more seldom.
    Anneal,
    /// Greedy steps to better neighbours; where there is none, again from a drawn candidate.
    Local,
    /// A forest of regression trees over what was measured proposes the most promising.
    #[default]
    Model,
}

impl StrategyKind {
    /// Every strategy.
    pub const ALL: [Self; 5] =
        [Self::Exhaustive, Self::Random, Self::Anneal, Self::Local, Self::Model];

    /// Its name in flags.
    pub fn name(self) -> &'static str {
        match self {
            Self::Exhaustive => "exhaustive",
            Self::Random => "random",
            Self::Anneal => "anneal",
            Self::Local => "local",
            Self::Model => "model",
        }
    }

    fn strategy(self) -> Box<dyn Strategy> {
        match self {
            Self::Exhaustive => Box::new(exhaustive::Exhaustive::default()),
            Self::Random => Box::new(random::Uniform),
            Self::Anneal => Box::new(anneal::Anneal::default()),
            Self::Local => Box::new(local::Local::default()),
            Self::Model => Box::new(model::Model::default()),
        }
    }
}

impl fmt::Display for StrategyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for StrategyKind {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::ALL.into_iter().find(|kind| kind.name() == text).ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            Error::argument("strategy", format!("expected one of {names}, got {text:?}"))
        })
    }
}

impl<'a> Known<'a> {
    /// The space that is searched.
    pub fn space(&self) -> &'a Space {
        self.space
    }

    /// Candidates with their seconds, `None` where one failed, in the order of their outcomes.
    pub fn trials(&self) -> &[(usize, Option<f64>)] {
        &self.trials
    }

    /// The quickest candidate so far.
    pub fn best(&self) -> Option<(usize, f64)> {
        let timed = self.trials.iter().filter_map(|&(candidate, time)| Some((candidate, time?)));
        timed.min_by(|a, b| a.1.total_cmp(&b.1))
    }

    /// Whether a candidate was asked for, or its outcome told.
    pub fn was_asked(&self, candidate: usize) -> bool {
        self.asked[candidate]
    }

    /// Candidates that were not asked for yet.
    pub fn left(&self) -> usize {
        self.left
    }

    /// Those neighbours of a candidate that were not asked for yet.
    fn new_neighbours(&self, candidate: usize) -> Vec<usize> {
        let mut neighbours = self.space.neighbours(candidate);
        neighbours.retain(|&neighbour| !self.asked[neighbour]);
        neighbours
    }

    /// A drawn candidate that was not asked for yet; there is one.
    fn draw(&self, random: &mut Random) -> usize {
        let nth = random.below(self.left);
        let mut left = (0..self.asked.len()).filter(|&candidate| !self.asked[candidate]);
        left.nth(nth).expect("a candidate is left")
    }

    fn mark(&mut self, candidate: usize) {
        if !std::mem::replace(&mut self.asked[candidate], true) {
            self.left -= 1;
        }
    }
}

/// A search of a space, in progress.
#[derive(Debug)]
pub struct Search<'a> {
    known: Known<'a>,
    /// Candidates to try before the strategy is asked, the first one last.
    starts: Vec<usize>,
    strategy: Box<dyn Strategy>,
    random: Random,
}

impl<'a> Search<'a> {
    /// A search that begins with `starts`: the default configuration, and what is known to be
    /// good for the nearest class.
    pub fn new(space: &'a Space, kind: StrategyKind, seed: u64, starts: &[usize]) -> Self {
        let (asked, left) = (vec![false; space.len()], space.len());
        let known = Known { space, asked, left, trials: Vec::new() };
        let starts = starts.iter().rev().copied().collect();
        Self { known, starts, strategy: kind.strategy(), random: Random::new(seed) }
    }

    /// The next candidate to try; `None` once all were.
    pub fn ask(&mut self) -> Option<usize> {
        if self.known.left == 0 {
            return None;
        }
        let mut candidate = None;
        while candidate.is_none()
            && let Some(start) = self.starts.pop()
        {
            candidate = Some(start).filter(|&start| !self.known.asked[start]);
        }
        let candidate =
            candidate.unwrap_or_else(|| self.strategy.ask(&self.known, &mut self.random));
        debug_assert!(!self.known.asked[candidate], "a strategy proposes a new candidate");
        self.known.mark(candidate);
        Some(candidate)
    }

    /// What came of a candidate: its seconds, or `None` if it failed in any way. Outcomes of
    /// candidates that were not asked for (of an earlier run) are welcome.
    pub fn tell(&mut self, candidate: usize, seconds: Option<f64>) {
        self.known.mark(candidate);
        let seconds = seconds.filter(|seconds| seconds.is_finite() && *seconds > 0.0);
        self.known.trials.push((candidate, seconds));
        self.strategy.tell(&self.known, &mut self.random);
    }

    /// The quickest candidate so far.
    pub fn best(&self) -> Option<(usize, f64)> {
        self.known.best()
    }

    /// What is known so far.
    pub fn known(&self) -> &Known<'a> {
        &self.known
    }
}

#[cfg(test)]
mod tests;
