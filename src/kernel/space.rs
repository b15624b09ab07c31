//! What a kernel can be specialised by: its parameters, the values that are worth trying, and what
//! must hold between them.

use crate::info::DeviceInfo;

/// An integer that a kernel is specialised by, a `-D NAME=VALUE` of its program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Parameter {
    /// As the kernel's source spells it.
    pub name: &'static str,
    /// What holds where nobody gives another.
    pub default: u32,
    /// What a tuner tries, in ascending order; none if the problem decides the value.
    pub values: &'static [u32],
    /// Whether it takes any value between the first and the last: it counts things.
    pub counts: bool,
}

impl Parameter {
    /// Whether a configuration may have this value.
    pub fn takes(&self, value: u32) -> bool {
        let between = |first, last| (first..=last).contains(&value);
        match *self.values {
            [first, .., last] if self.counts => between(first, last),
            _ => self.values.contains(&value),
        }
    }
}

/// What must hold between a kernel's parameters, or between them and the device.
#[derive(Clone, Copy, Debug)]
pub struct Constraint {
    /// The condition, for people.
    pub text: &'static str,
    /// Whether a configuration meets it on a device.
    pub holds: fn(&Configuration, &DeviceInfo) -> bool,
}

/// A value for each of a kernel's parameters, in the kernel's order.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[serde(transparent)]
pub struct Configuration(Vec<(&'static str, u32)>);

impl Configuration {
    /// Every parameter's default.
    pub fn defaults(parameters: &[Parameter]) -> Self {
        Self(parameters.iter().map(|parameter| (parameter.name, parameter.default)).collect())
    }

    /// The value of a parameter.
    ///
    /// # Panics
    ///
    /// If the kernel has no such parameter: a bug of this crate.
    pub fn get(&self, name: &str) -> u32 {
        let found = self.0.iter().find(|(parameter, _)| *parameter == name);
        found.unwrap_or_else(|| panic!("no parameter {name} in {:?}", self.0)).1
    }

    /// As [`Configuration::get`], for sizes.
    pub fn size(&self, name: &str) -> usize {
        self.get(name) as usize
    }

    /// Gives a parameter another value; whether the kernel has it.
    pub fn set(&mut self, name: &str, value: u32) -> bool {
        let found = self.0.iter_mut().find(|(parameter, _)| *parameter == name);
        found.map(|(_, old)| *old = value).is_some()
    }

    /// Names and values, in the kernel's order.
    pub fn values(&self) -> &[(&'static str, u32)] {
        &self.0
    }
}

impl std::fmt::Display for Configuration {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, (name, value)) in self.0.iter().enumerate() {
            let space = if index == 0 { "" } else { " " };
            write!(f, "{space}{name}={value}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_counts_takes_any_number_between_and_the_rest_what_is_listed() {
        let parameter = |counts, values| Parameter { name: "N", default: 4, values, counts };
        for (why, parameter, value, taken) in [
            ("listed", parameter(false, &[2, 4, 8]), 4, true),
            ("not listed", parameter(false, &[2, 4, 8]), 6, false),
            ("between", parameter(true, &[2, 4, 8]), 6, true),
            ("less than any", parameter(true, &[2, 4, 8]), 1, false),
            ("more than any", parameter(true, &[2, 4, 8]), 9, false),
            ("decided by the problem", parameter(true, &[]), 4, false),
        ] {
            assert_eq!(parameter.takes(value), taken, "{why}");
        }
    }
}
