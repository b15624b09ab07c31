//! What the benches share: their command line, and how a row is timed and printed.

use std::time::Instant;

use clap::Parser;
use ellesmere::{DType, Device, DeviceOptions, Result, Tensor};

#[derive(Parser)]
pub struct Options {
    /// Devices to measure, as `clbench devices` lists them; can be given several times
    #[arg(long, value_name = "ID", default_value = "cpu")]
    device: Vec<String>,
    /// How values are stored
    #[arg(long, value_name = "f32|f16", default_value = "f32")]
    pub dtype: DType,
    /// Runs of a row after the first, which compiles
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    repeat: u32,
    /// Only rows whose name contains this
    #[arg(default_value = "")]
    part: String,
    /// Given by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

/// A bench's `main`: its rows on every device asked for.
pub fn run(rows: fn(&Device, &Options) -> Result<()>) -> Result<()> {
    let options = Options::parse();
    for id in &options.device {
        let device = Device::open(id, &DeviceOptions::default())?;
        println!("{}, {}, {}", device.info().name, device.info().platform, options.dtype);
        rows(&device, &options)?;
    }
    Ok(())
}

impl Options {
    /// Whether the row of that name is asked for.
    pub fn wants(&self, name: &str) -> bool {
        name.contains(&self.part)
    }

    /// Times a row that is asked for: `work` a run, in 10^9 of it a second of the best run. The
    /// spread is the median over the best.
    pub fn report(
        &self,
        name: &str,
        work: usize,
        unit: &str,
        run: impl Fn() -> Result<Tensor>,
    ) -> Result<()> {
        if !self.wants(name) {
            return Ok(());
        }
        let mut seconds = Vec::new();
        for _ in 0..=self.repeat {
            let start = Instant::now();
            let y = run()?;
            y.device().finish()?;
            seconds.push(start.elapsed().as_secs_f64());
        }
        // The first run compiles.
        seconds.remove(0);
        seconds.sort_by(f64::total_cmp);
        let (best, median) = (seconds[0], seconds[seconds.len() / 2]);
        let (rate, spread) = (work as f64 / best / 1e9, median / best);
        println!("{name:32} {:9.3} ms {rate:9.1} {unit:7}  spread {spread:4.2}", best * 1e3);
        Ok(())
    }
}

/// So many values between -1 and 1.
pub fn values(count: usize) -> Vec<f32> {
    (0..count).map(|index| (index * 7919 % 2003) as f32 / 1001.0 - 1.0).collect()
}
