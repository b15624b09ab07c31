//! The candidates of a kernel: every configuration that its constraints allow on a device.

use std::collections::HashMap;

use crate::info::DeviceInfo;
use crate::kernel::{Configuration, Kernel};

/// A parameter with the values that it takes in a space, in ascending order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Axis {
    /// The parameter.
    pub name: String,
    /// Its values.
    pub values: Vec<u32>,
}

/// Candidates by number, in a fixed order: the last parameter changes first.
///
/// A candidate's *ranks* say which value of each axis it has.
#[derive(Clone, Debug)]
pub struct Space {
    axes: Vec<Axis>,
    candidates: Vec<Vec<u16>>,
    numbers: HashMap<Vec<u16>, usize>,
    unconstrained: usize,
}

impl Space {
    /// The candidates of a kernel on a device. Parameters that the problem decides keep their
    /// value in `base`; a value of `base` that the catalogue does not list is tried as well.
    pub fn new(kernel: &Kernel, base: &Configuration, info: &DeviceInfo) -> Self {
        let tuned = kernel.parameters.iter().filter(|parameter| !parameter.values.is_empty());
        let axes = tuned.map(|parameter| {
            let mut values = parameter.values.to_vec();
            values.push(base.get(parameter.name));
            values.sort_unstable();
            values.dedup();
            Axis { name: parameter.name.to_owned(), values }
        });
        let axes: Vec<Axis> = axes.collect();
        let unconstrained = axes.iter().map(|axis| axis.values.len()).product();
        let mut candidates = Vec::new();
        let mut ranks = vec![0u16; axes.len()];
        let mut configuration = base.clone();
        for number in 0..unconstrained {
            let mut rest: usize = number;
            for (axis, rank) in axes.iter().zip(&mut ranks).rev() {
                *rank = (rest % axis.values.len()) as u16;
                rest /= axis.values.len();
                configuration.set(&axis.name, axis.values[*rank as usize]);
            }
            if kernel.violated(&configuration, info).is_none() {
                candidates.push(ranks.clone());
            }
        }
        Self::from_parts(axes, candidates, unconstrained)
    }

    /// The space that consists of these candidates, each a value for every name. One that is
    /// there twice counts once.
    pub(super) fn of_values(names: &[String], rows: &[Vec<u32>]) -> Self {
        let axes = names.iter().enumerate().map(|(column, name)| {
            let mut values: Vec<u32> = rows.iter().map(|row| row[column]).collect();
            values.sort_unstable();
            values.dedup();
            Axis { name: name.clone(), values }
        });
        let axes: Vec<Axis> = axes.collect();
        let rank = |axis: &Axis, value| axis.values.partition_point(|&other| other < value) as u16;
        let ranks = |row: &Vec<u32>| -> Vec<u16> {
            axes.iter().zip(row).map(|(axis, &value)| rank(axis, value)).collect()
        };
        let mut candidates: Vec<Vec<u16>> = rows.iter().map(ranks).collect();
        candidates.sort_unstable();
        candidates.dedup();
        let unconstrained =
            axes.iter().fold(1usize, |count, axis| count.saturating_mul(axis.values.len()));
        Self::from_parts(axes, candidates, unconstrained)
    }

    /// The candidates for which `keep` holds, and of the axes the values that those have.
    pub fn filtered(self, keep: impl Fn(&[(&str, u32)]) -> bool) -> Self {
        let names: Vec<String> = self.axes.iter().map(|axis| axis.name.clone()).collect();
        let candidates = 0..self.len();
        let pairs = candidates.map(|candidate| self.values(candidate).collect::<Vec<_>>());
        let kept = pairs.filter(|values| keep(values));
        let rows = kept.map(|values| values.into_iter().map(|(_, value)| value).collect());
        Self::of_values(&names, &rows.collect::<Vec<_>>())
    }

    fn from_parts(axes: Vec<Axis>, candidates: Vec<Vec<u16>>, unconstrained: usize) -> Self {
        let numbers = candidates.iter().cloned().enumerate().map(|(number, ranks)| (ranks, number));
        let numbers = numbers.collect();
        Self { axes, candidates, numbers, unconstrained }
    }

    /// How many candidates there are.
    pub fn len(&self) -> usize {
        self.candidates.len()
    }

    /// Whether the constraints allow none.
    pub fn is_empty(&self) -> bool {
        self.candidates.is_empty()
    }

    /// How many there would be without constraints.
    pub fn unconstrained(&self) -> usize {
        self.unconstrained
    }

    /// The parameters that vary.
    pub fn axes(&self) -> &[Axis] {
        &self.axes
    }

    /// A candidate's ranks, one for each axis.
    pub fn ranks(&self, candidate: usize) -> &[u16] {
        &self.candidates[candidate]
    }

    /// A candidate's values by name.
    pub fn values(&self, candidate: usize) -> impl Iterator<Item = (&str, u32)> {
        let ranks = self.candidates[candidate].iter();
        let pairs = self.axes.iter().zip(ranks);
        pairs.map(|(axis, &rank)| (axis.name.as_str(), axis.values[usize::from(rank)]))
    }

    /// `base` with a candidate's values.
    pub fn configuration(&self, base: &Configuration, candidate: usize) -> Configuration {
        let mut configuration = base.clone();
        for (name, value) in self.values(candidate) {
            configuration.set(name, value);
        }
        configuration
    }

    /// The candidate with these values; `None` if a value is no axis' or the candidate is not
    /// allowed. Names that are no axis do not matter.
    pub fn find<'a>(&self, values: impl IntoIterator<Item = (&'a str, u32)>) -> Option<usize> {
        let values: HashMap<&str, u32> = values.into_iter().collect();
        let ranks = self.axes.iter().map(|axis| {
            let value = values.get(axis.name.as_str())?;
            axis.values.binary_search(value).ok().map(|rank| rank as u16)
        });
        self.numbers.get(&ranks.collect::<Option<Vec<u16>>>()?).copied()
    }

    /// The candidate of a configuration: see [`Space::find`].
    pub fn find_configuration(&self, configuration: &Configuration) -> Option<usize> {
        self.find(configuration.values().iter().copied())
    }

    /// The candidates that differ in one parameter, by one step of its values, or by more where
    /// constraints leave none nearer.
    pub fn neighbours(&self, candidate: usize) -> Vec<usize> {
        let mut found = Vec::new();
        for (axis, values) in self.axes.iter().enumerate() {
            let own = self.candidates[candidate][axis];
            let mut ranks = self.candidates[candidate].clone();
            let mut at = |rank| {
                ranks[axis] = rank;
                self.numbers.get(&ranks).copied()
            };
            found.extend((0..own).rev().find_map(&mut at));
            found.extend((own + 1..values.values.len() as u16).find_map(&mut at));
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Backend as _;
    use crate::backend::cpu::Cpu;

    fn local_space() -> (Space, Configuration) {
        let kernel = Kernel::find("gemm_local").unwrap();
        let base = Configuration::defaults(kernel.parameters);
        let mut info = Cpu::definitions().info().clone();
        (info.max_work_group, info.local_memory_bytes) = (256, 32 << 10);
        (Space::new(kernel, &base, &info), base)
    }

    #[test]
    fn a_space_holds_what_the_constraints_allow_in_a_fixed_order() {
        let (space, base) = local_space();
        let values = Kernel::find("gemm_local").unwrap().parameters.iter();
        let values = values.map(|parameter| parameter.values.len().max(1));
        assert_eq!(space.unconstrained(), values.product::<usize>());
        assert!((1..space.unconstrained()).contains(&space.len()));
        let kernel = Kernel::find("gemm_local").unwrap();
        let mut info = Cpu::definitions().info().clone();
        (info.max_work_group, info.local_memory_bytes) = (256, 32 << 10);
        for candidate in 0..space.len() {
            let configuration = space.configuration(&base, candidate);
            assert!(kernel.violated(&configuration, &info).is_none(), "{configuration}");
            assert_eq!(space.find_configuration(&configuration), Some(candidate));
        }
        assert!((1..space.len()).all(|next| space.ranks(next - 1) < space.ranks(next)));
    }

    #[test]
    fn neighbours_differ_in_one_parameter_and_know_each_other() {
        let (space, _) = local_space();
        for candidate in 0..space.len() {
            for neighbour in space.neighbours(candidate) {
                let pairs = space.ranks(candidate).iter().zip(space.ranks(neighbour));
                assert_eq!(pairs.filter(|(a, b)| a != b).count(), 1);
                assert!(space.neighbours(neighbour).contains(&candidate));
            }
        }
    }

    #[test]
    fn what_the_problem_decides_is_kept_and_an_unlisted_value_is_tried() {
        let kernel = Kernel::find("attention_register").unwrap();
        let mut base = Configuration::defaults(kernel.parameters);
        base.set("HEAD_WIDTH", 40);
        base.set("KEYS", 40);
        let space = Space::new(kernel, &base, Cpu::definitions().info());
        let keys = (0..space.len())
            .map(|candidate| space.configuration(&base, candidate))
            .inspect(|configuration| assert_eq!(configuration.get("HEAD_WIDTH"), 40))
            .map(|configuration| configuration.get("KEYS"))
            .collect::<std::collections::BTreeSet<u32>>();
        let listed = kernel.parameters.iter().find(|parameter| parameter.name == "KEYS").unwrap();
        assert!(!listed.values.contains(&40) && keys.contains(&40));
        assert!(listed.values.iter().all(|value| keys.contains(value)));
    }
}
