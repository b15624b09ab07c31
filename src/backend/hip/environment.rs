//! What the driver library is told before it is opened: it reads the environment by itself.

use std::sync::OnceLock;

use crate::knob;

/// Sets variables that the user has not set, once for a process and before [`super::enumerate`] or
/// another search for devices opens a library. Gives a line for each that was set.
pub fn set_environment(variables: &[(&'static str, &'static str)]) -> Vec<String> {
    static SET: OnceLock<Vec<String>> = OnceLock::new();
    let set = || {
        let users: Vec<_> = knob::driver_variables().into_iter().map(|(name, _)| name).collect();
        let missing = variables.iter().filter(|(name, _)| !users.contains(name));
        let set = |(name, value): &(&'static str, &'static str)| {
            // SAFETY: Rust's readers of the environment take turns with this. Libraries in C that
            // read it are the ones opened after this; a program that has other threads in such
            // code sets the variable itself, and then nothing is written here.
            unsafe { std::env::set_var(name, value) };
            format!("{name}={value} was set")
        };
        missing.map(set).collect()
    };
    SET.get_or_init(set).clone()
}
