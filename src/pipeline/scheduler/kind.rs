//! The schedulers that there are, by their names on the command line and in files.

use std::fmt;
use std::str::FromStr;

use crate::Error;

/// Which scheduler, by the name that a command line uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SchedulerKind {
    /// `ddim`: diffusers' `DDIMScheduler`.
    Ddim,
    /// `pndm`: `PNDMScheduler`.
    Pndm,
    /// `euler`: `EulerDiscreteScheduler`.
    Euler,
    /// `euler-ancestral`: `EulerAncestralDiscreteScheduler`.
    EulerAncestral,
    /// `dpm++2m`: `DPMSolverMultistepScheduler`.
    DpmMultistep,
    /// `dpm++2m-karras`: the same with `use_karras_sigmas`.
    DpmMultistepKarras,
    /// `heun`: `HeunDiscreteScheduler`.
    Heun,
    /// `lcm`: `LCMScheduler`.
    Lcm,
    /// `unipc`: `UniPCMultistepScheduler`.
    UniPc,
}

impl SchedulerKind {
    /// Every kind, in the order in which help texts list them.
    pub const ALL: [SchedulerKind; 9] = [
        SchedulerKind::Ddim,
        SchedulerKind::Pndm,
        SchedulerKind::Euler,
        SchedulerKind::EulerAncestral,
        SchedulerKind::DpmMultistep,
        SchedulerKind::DpmMultistepKarras,
        SchedulerKind::Heun,
        SchedulerKind::Lcm,
        SchedulerKind::UniPc,
    ];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            SchedulerKind::Ddim => "ddim",
            SchedulerKind::Pndm => "pndm",
            SchedulerKind::Euler => "euler",
            SchedulerKind::EulerAncestral => "euler-ancestral",
            SchedulerKind::DpmMultistep => "dpm++2m",
            SchedulerKind::DpmMultistepKarras => "dpm++2m-karras",
            SchedulerKind::Heun => "heun",
            SchedulerKind::Lcm => "lcm",
            SchedulerKind::UniPc => "unipc",
        }
    }

    /// The class in diffusers, as `_class_name` of a `scheduler_config.json` says it.
    pub fn class_name(self) -> &'static str {
        match self {
            SchedulerKind::Ddim => "DDIMScheduler",
            SchedulerKind::Pndm => "PNDMScheduler",
            SchedulerKind::Euler => "EulerDiscreteScheduler",
            SchedulerKind::EulerAncestral => "EulerAncestralDiscreteScheduler",
            SchedulerKind::DpmMultistep | SchedulerKind::DpmMultistepKarras => {
                "DPMSolverMultistepScheduler"
            }
            SchedulerKind::Heun => "HeunDiscreteScheduler",
            SchedulerKind::Lcm => "LCMScheduler",
            SchedulerKind::UniPc => "UniPCMultistepScheduler",
        }
    }

    /// The kind of a class in diffusers, without any setting that the name would add.
    pub(super) fn from_class_name(class_name: &str) -> Option<Self> {
        SchedulerKind::ALL.into_iter().find(|kind| kind.class_name() == class_name)
    }
}

impl fmt::Display for SchedulerKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl FromStr for SchedulerKind {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        SchedulerKind::ALL.into_iter().find(|kind| kind.name() == name).ok_or_else(|| {
            let names = SchedulerKind::ALL.map(SchedulerKind::name).join(", ");
            Error::argument("scheduler", format!("expected one of {names}, got {name}"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_read_back() {
        for kind in SchedulerKind::ALL {
            assert_eq!(kind.to_string().parse::<SchedulerKind>().unwrap(), kind);
        }
        let error = "dpm".parse::<SchedulerKind>().unwrap_err().to_string();
        assert!(error.starts_with("scheduler: expected one of ddim, pndm"), "{error}");
        assert!(error.ends_with("got dpm"), "{error}");
    }

    #[test]
    fn a_class_name_adds_no_setting() {
        let kind = SchedulerKind::from_class_name("DPMSolverMultistepScheduler");
        assert_eq!(kind, Some(SchedulerKind::DpmMultistep));
        assert_eq!(SchedulerKind::from_class_name("DDPMScheduler"), None);
    }
}
