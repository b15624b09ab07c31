//! What memory is and was in use.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

/// Bytes held from the device, and bytes in use there as they were asked for: blocks may be larger.
/// Prints as a table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct MemoryStats {
    /// What may be held.
    pub budget_bytes: u64,
    /// What is held from the device: live blocks and the pool's unused ones.
    pub held_bytes: u64,
    /// The most that was held.
    pub peak_held_bytes: u64,
    /// The largest single allocation so far.
    pub largest_allocation_bytes: u64,
    /// What is in use.
    pub live_bytes: u64,
    /// The most that was in use.
    pub peak_live_bytes: u64,
    /// What the pool holds for later: held, but not in use.
    pub pool_bytes: u64,
    /// The largest unused block in the pool; 0 if there is none.
    pub largest_free_bytes: u64,
    /// What is in use, by label.
    pub labels: BTreeMap<&'static str, LabelStats>,
    /// What others hold on the device, by label: not held by the manager, but part of the budget.
    pub registered: BTreeMap<&'static str, LabelStats>,
    /// What is held on the host for the device: weights that are offloaded, or on their way from a
    /// file.
    pub host_bytes: u64,
    /// The most that was held there.
    pub peak_host_bytes: u64,
    /// What is left in files until it is used: weights that are offloaded to there.
    pub file_bytes: u64,
    /// What was copied from there, or from the host, to the device so far.
    pub copied_bytes: u64,
    /// How much of that was made anew of what files have.
    pub read_bytes: u64,
    /// What is parked on the host: bands of pictures.
    pub parked_bytes: u64,
    /// The most that was parked there.
    pub peak_parked_bytes: u64,
}

/// Bytes in use, or registered, under one label.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LabelStats {
    /// What is in use.
    pub live_bytes: u64,
    /// The most that was in use.
    pub peak_live_bytes: u64,
}

impl LabelStats {
    fn lived(&mut self, bytes: u64) {
        self.live_bytes += bytes;
        self.peak_live_bytes = self.peak_live_bytes.max(self.live_bytes);
    }
}

impl MemoryStats {
    /// What others hold on the device and have registered.
    pub fn registered_bytes(&self) -> u64 {
        self.registered.values().map(|stats| stats.live_bytes).sum()
    }

    /// How much of what is held the pool keeps for later, from 0 to 1.
    pub fn pool_share(&self) -> f64 {
        self.pool_bytes as f64 / self.held_bytes.max(1) as f64
    }

    /// What counts against the budget.
    pub(super) fn counted_bytes(&self) -> u64 {
        self.held_bytes.saturating_add(self.registered_bytes())
    }

    pub(super) fn registered(&mut self, label: &'static str, bytes: u64) {
        self.registered.entry(label).or_default().lived(bytes);
    }

    pub(super) fn unregistered(&mut self, label: &'static str, bytes: u64) {
        if let Some(entry) = self.registered.get_mut(label) {
            entry.live_bytes -= bytes;
        }
    }

    pub(super) fn held(&mut self, bytes: u64) {
        self.largest_allocation_bytes = self.largest_allocation_bytes.max(bytes);
        self.held_bytes += bytes;
        self.peak_held_bytes = self.peak_held_bytes.max(self.held_bytes);
    }

    pub(super) fn held_on_host(&mut self, bytes: u64) {
        self.host_bytes += bytes;
        self.peak_host_bytes = self.peak_host_bytes.max(self.host_bytes);
    }

    pub(super) fn released(&mut self, bytes: u64) {
        self.held_bytes -= bytes;
    }

    pub(super) fn lived(&mut self, label: &'static str, bytes: u64) {
        self.live_bytes += bytes;
        self.peak_live_bytes = self.peak_live_bytes.max(self.live_bytes);
        self.labels.entry(label).or_default().lived(bytes);
    }

    pub(super) fn died(&mut self, label: &'static str, bytes: u64) {
        self.live_bytes -= bytes;
        if let Some(entry) = self.labels.get_mut(label) {
            entry.live_bytes -= bytes;
        }
    }

    pub(super) fn parked(&mut self, bytes: u64) {
        self.parked_bytes += bytes;
        self.peak_parked_bytes = self.peak_parked_bytes.max(self.parked_bytes);
    }

    pub(super) fn unparked(&mut self, bytes: u64) {
        self.parked_bytes -= bytes;
    }

    pub(super) fn reset_peaks(&mut self) {
        self.peak_parked_bytes = self.parked_bytes;
        self.peak_held_bytes = self.held_bytes;
        self.peak_live_bytes = self.live_bytes;
        self.peak_host_bytes = self.host_bytes;
        for entry in self.labels.values_mut().chain(self.registered.values_mut()) {
            entry.peak_live_bytes = entry.live_bytes;
        }
    }
}

impl fmt::Display for MemoryStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gb = |bytes: u64| format!("{:.3} GB", bytes as f64 / 1e9);
        let row = |name: &str, now: u64, most: u64| {
            format!("{name:<24} {:>13} {:>13}", gb(now), gb(most))
        };
        let mut lines = vec![format!("{:<24} {:>13} {:>13}", "memory", "now", "at most")];
        let budget = gb(self.budget_bytes);
        lines.push(row("held", self.held_bytes, self.peak_held_bytes) + "  of " + &budget);
        lines.push(row("in use", self.live_bytes, self.peak_live_bytes));
        let labelled = |(label, stats): (&&str, &LabelStats)| {
            row(&format!("  {label}"), stats.live_bytes, stats.peak_live_bytes)
        };
        lines.extend(self.labels.iter().map(labelled));
        if self.pool_bytes > 0 {
            let (pool, largest) = (gb(self.pool_bytes), gb(self.largest_free_bytes));
            let share = 100.0 * self.pool_share();
            lines.push(format!(
                "{:<24} {pool:>13} {:>13}  {share:.0} % of what is held, largest block {largest}",
                "in the pool", ""
            ));
        }
        if self.peak_host_bytes > 0 {
            let copied = gb(self.copied_bytes);
            let host = row("on the host", self.host_bytes, self.peak_host_bytes);
            lines.push(format!("{host}  {copied} copied to the device so far"));
        }
        if self.file_bytes > 0 {
            lines.push(format!("{:<24} {:>13}", "in files", gb(self.file_bytes)));
        }
        if !self.registered.is_empty() {
            lines.push(format!("{:<24} {:>13}", "others", gb(self.registered_bytes())));
            lines.extend(self.registered.iter().map(labelled));
        }
        f.write_str(&lines.join("\n"))
    }
}
